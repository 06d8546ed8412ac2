//! Questions to a Prometheus, by its HTTP API.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::world::Namespace;

/// Longest time for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reason for which there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server cannot be reached, or its answer ends early.
    #[error("cannot ask {address} for {page}")]
    Exchange {
        /// Address of the server.
        address: SocketAddr,
        /// Path of the page, with its query.
        page: String,
        /// Answer of the kernel.
        #[source]
        source: io::Error,
    },
    /// The server answers with another status than 200.
    #[error("{address} answers `{status}` to {page}: {body}")]
    Status {
        /// Address of the server.
        address: SocketAddr,
        /// Path of the page, with its query.
        page: String,
        /// First line of the answer.
        status: String,
        /// Body of the answer.
        body: String,
    },
    /// The answer is not what Prometheus's API says.
    #[error("{address} answers {page} with what is no list of series: {body}")]
    Format {
        /// Address of the server.
        address: SocketAddr,
        /// Path of the page, with its query.
        page: String,
        /// Body of the answer.
        body: String,
    },
}

/// A stretch of time, and the points in it that a query is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First point, in seconds since the epoch.
    pub start: u64,
    /// Last point, in seconds since the epoch.
    pub end: u64,
    /// Seconds from one point to the next.
    pub step: u64,
}

/// A server, as one reaches it from a network namespace.
#[derive(Debug)]
pub struct Prometheus<'n> {
    /// Address at which it listens.
    pub address: SocketAddr,
    /// Network namespace in which that is; `None` for the caller's own.
    pub namespace: Option<&'n Namespace>,
}

impl Prometheus<'_> {
    /// Returns the body of a page.
    ///
    /// # Errors
    ///
    /// The server cannot be reached, or the status is not 200.
    pub fn get(&self, page: &str) -> Result<String, Error> {
        let answer = self.exchange(page).map_err(|source| Error::Exchange {
            address: self.address,
            page: page.to_owned(),
            source,
        })?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.lines().next().unwrap_or_default();
        if status.split(' ').nth(1) == Some("200") {
            return Ok(body.to_owned());
        }
        Err(Error::Status {
            address: self.address,
            page: page.to_owned(),
            status: status.to_owned(),
            body: body.to_owned(),
        })
    }

    fn exchange(&self, page: &str) -> io::Result<String> {
        let entered = self.namespace.map(Namespace::enter).transpose();
        let inside = entered.map_err(io::Error::other)?;
        let mut stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        drop(inside);
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {page} HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Returns the series of a query, each with its value now.
    ///
    /// # Errors
    ///
    /// There is no such answer.
    pub fn query(&self, query: &str) -> Result<Vec<Value>, Error> {
        self.series(format!("/api/v1/query?query={}", escaped(query)))
    }

    /// Returns the series of a query, each with its values at one time.
    ///
    /// # Errors
    ///
    /// There is no such answer.
    pub fn at(&self, query: &str, time: u64) -> Result<Vec<Value>, Error> {
        let query = escaped(query);
        self.series(format!("/api/v1/query?query={query}&time={time}"))
    }

    /// Returns the series of a query, each with its values in a window.
    ///
    /// # Errors
    ///
    /// There is no such answer.
    pub fn range(&self, query: &str, window: Window) -> Result<Vec<Value>, Error> {
        let query = escaped(query);
        let Window { start, end, step } = window;
        self.series(format!(
            "/api/v1/query_range?query={query}&start={start}&end={end}&step={step}"
        ))
    }

    fn series(&self, page: String) -> Result<Vec<Value>, Error> {
        let body = self.get(&page)?;
        let mut answer: Value = serde_json::from_str(&body).unwrap_or_default();
        match answer.pointer_mut("/data/result").map(Value::take) {
            Some(Value::Array(series)) => Ok(series),
            _ => Err(Error::Format {
                address: self.address,
                page,
                body,
            }),
        }
    }
}

/// Writes a query as a part of an address.
fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}
