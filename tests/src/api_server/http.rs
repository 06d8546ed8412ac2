//! Requests and answers of HTTP/1.1, as far as the server's clients go.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use serde_json::Value;

/// Longest body that is read, in bytes.
const MAX_BODY: usize = 1 << 20;

/// A request.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) method: String,
    /// Path and query.
    pub(super) target: String,
    /// The bearer's token.
    pub(super) token: Option<String>,
    pub(super) content_type: String,
    pub(super) body: Vec<u8>,
}

impl Asked {
    pub(super) fn read(stream: &mut (impl Read + Write)) -> io::Result<Self> {
        const END: &[u8] = b"\r\n\r\n";
        let mut read = Vec::new();
        let mut part = [0; 4096];
        let head = loop {
            let end = read.windows(END.len()).position(|window| window == END);
            if let Some(end) = end {
                break end + END.len();
            }
            let length = stream.read(&mut part)?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            read.extend(&part[..length]);
        };
        let mut body = read.split_off(head);
        let head = String::from_utf8_lossy(&read).into_owned();
        let header = |wanted: &str| {
            let mut lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
            let found = lines.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
            found.map(|(_, value)| value.trim().to_owned())
        };
        if header("expect").is_some() {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            stream.flush()?;
        }
        let length = header("content-length").and_then(|length| length.parse().ok());
        let length: usize = length.unwrap_or(0);
        if length > MAX_BODY {
            return Err(io::ErrorKind::InvalidData.into());
        }
        while body.len() < length {
            let more = stream.read(&mut part)?;
            if more == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            body.extend(&part[..more]);
        }
        let mut words = head.split(' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        let (method, target) = (word(), word());
        let token = header("authorization");
        Ok(Self {
            method,
            target,
            token: token.and_then(|value| value.strip_prefix("Bearer ").map(str::to_owned)),
            content_type: header("content-type").unwrap_or_default(),
            body,
        })
    }

    pub(super) fn path(&self) -> &str {
        self.target
            .split_once('?')
            .map_or(&*self.target, |(path, _)| path)
    }

    pub(super) fn query(&self) -> BTreeMap<&str, &str> {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .collect()
    }
}

pub(super) fn answer(stream: &mut impl Write, code: u16, body: &Value) -> io::Result<()> {
    answer_text(stream, code, &body.to_string())
}

/// Answers with a body that is JSON already.
pub(super) fn answer_text(stream: &mut impl Write, code: u16, body: &str) -> io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {code} \r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    stream.flush()
}

/// Writes a chunk of an answer; the empty one is its end.
pub(super) fn chunk(stream: &mut impl Write, text: &str) -> io::Result<()> {
    // In one piece: it is one packet then, and one record of TLS.
    stream.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes())?;
    stream.flush()
}
