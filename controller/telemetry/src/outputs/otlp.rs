//! Records as OpenTelemetry logs: OTLP over HTTP, in the JSON form of its messages.
//!
//! A batch of records is one request. The official exporter would bring 23 more crates into a
//! process with capabilities, for messages of a dozen fields.

use std::io;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use cofferdam_protocol::output::{FlowEnd, FlowRecord, RecordType};
use cofferdam_protocol::words::ClosedList as _;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Lost, Sink, sentence};

/// Longest time for one batch, from the first connection to the last answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Pause before a batch is sent again that a collector could not take now; each further one is
/// twice as long, and as long as the collector asks for.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// Path of logs where the address has none.
const LOGS: &str = "/v1/logs";

/// Sends records to a collector.
#[derive(Debug)]
pub struct Otlp {
    address: Uri,
    runtime: Runtime,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Otlp {
    /// Sends to this address, which has a scheme and a host. It is connected to when there is
    /// a record, and again after each failure.
    ///
    /// # Errors
    /// If the runtime cannot be started.
    pub fn new(address: Uri) -> io::Result<Self> {
        Ok(Self {
            address,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
            connection: None,
        })
    }
}

impl Sink for Otlp {
    fn pass_on(&mut self, records: &[Arc<FlowRecord>]) -> Result<(), Lost> {
        let body = Bytes::from(request(records).to_string());
        let Self {
            address,
            runtime,
            connection,
        } = self;
        let sent = runtime.block_on(deliver(address, connection, &body));
        let lost = |count, source| Err(Lost { count, source });
        match sent {
            Ok(0) => Ok(()),
            Ok(rejected) => lost(
                rejected.min(records.len() as u64),
                io::Error::other("the collector has rejected records"),
            ),
            Err(error) => {
                *connection = None;
                lost(records.len() as u64, error)
            }
        }
    }
}

/// Reason for which a collector has not taken a batch.
struct Refusal {
    error: io::Error,
    /// Least pause before the batch may be sent again; `None` if it must not: it may have been
    /// taken, or is wrong.
    again: Option<Duration>,
}

impl Refusal {
    /// The batch may have been taken.
    fn for_good(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self {
            error: io::Error::other(error),
            again: None,
        }
    }
}

/// Sends a batch, again and again while the collector cannot take it now, within
/// [`PATIENCE`]. Returns how many records the collector rejects.
///
/// Source: OTLP specification, "Failures" of OTLP/HTTP.
async fn deliver(
    address: &Uri,
    connection: &mut Option<SendRequest<Full<Bytes>>>,
    body: &Bytes,
) -> io::Result<u64> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = FIRST_PAUSE;
    loop {
        let answer = timeout_at(deadline, post(address, connection, body.clone())).await;
        let refusal = match answer {
            Ok(Ok(rejected)) => return Ok(rejected),
            Ok(Err(refusal)) => refusal,
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        };
        let next = refusal.again.map(|least| Instant::now() + pause.max(least));
        let Some(next) = next.filter(|next| *next < deadline) else {
            return Err(refusal.error);
        };
        *connection = None;
        sleep_until(next).await;
        pause *= 2;
    }
}

/// Sends one request. Returns how many records the collector rejects.
async fn post(
    address: &Uri,
    connection: &mut Option<SendRequest<Full<Bytes>>>,
    body: Bytes,
) -> Result<u64, Refusal> {
    let authority = address
        .authority()
        .map_or("", |authority| authority.as_str());
    if connection.as_ref().is_none_or(SendRequest::is_closed) {
        // Nothing has been sent yet.
        *connection = Some(connect(address).await.map_err(|error| Refusal {
            error,
            again: Some(Duration::ZERO),
        })?);
    }
    let connection = connection.as_mut().expect("it has just been made");
    let path = match address.path() {
        "/" | "" => LOGS,
        path => path,
    };
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(Refusal::for_good)?;
    connection.ready().await.map_err(|error| Refusal {
        again: Some(Duration::ZERO),
        ..Refusal::for_good(error)
    })?;
    let answer = connection
        .send_request(request)
        .await
        .map_err(Refusal::for_good)?;
    let status = answer.status();
    let pause = answer
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|seconds| seconds.to_str().ok()?.parse().ok());
    let pause = Duration::from_secs(pause.unwrap_or(0));
    // Read to its end, so that the connection serves again.
    let body = Limited::new(answer.into_body(), MAX_ANSWER)
        .collect()
        .await
        .map_err(Refusal::for_good)?
        .to_bytes();
    if status != StatusCode::OK {
        return Err(Refusal {
            again: is_temporary(status).then_some(pause),
            ..Refusal::for_good(format!("the collector answers {status}"))
        });
    }
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    let rejected = &answer["partialSuccess"]["rejectedLogRecords"];
    // Numbers of 64 bits are texts in this form.
    let as_text = || rejected.as_str().and_then(|text| text.parse().ok());
    Ok(rejected.as_u64().or_else(as_text).unwrap_or(0))
}

/// Returns `true` if a collector that answers so may take the same batch later.
fn is_temporary(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

async fn connect(address: &Uri) -> io::Result<SendRequest<Full<Bytes>>> {
    let host = address
        .host()
        .unwrap_or_default()
        .trim_start_matches('[')
        .trim_end_matches(']');
    let stream = TcpStream::connect((host, address.port_u16().unwrap_or(80))).await?;
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(io::Error::other)?;
    // Goes on while this thread waits for an answer.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!("the connection to a collector has ended: {error}");
        }
    });
    Ok(sender)
}

/// A batch as an `ExportLogsServiceRequest`; all of its records are of one node.
fn request(records: &[Arc<FlowRecord>]) -> Value {
    let node = records.first().map_or("", |record| &record.node);
    let logs: Vec<Value> = records.iter().map(|record| log(record)).collect();
    json!({"resourceLogs": [{
        "resource": {"attributes": [
            attribute("service.name", "cofferdam".into()),
            attribute("service.version", env!("CARGO_PKG_VERSION").into()),
            attribute("k8s.node.name", node.into()),
        ]},
        "scopeLogs": [{"scope": {"name": "cofferdam.flow"}, "logRecords": logs}],
    }]})
}

fn attribute(key: &str, value: Value) -> Value {
    let value = match value {
        Value::Number(number) => json!({"intValue": number.to_string()}),
        Value::String(text) => json!({"stringValue": text}),
        other => json!({"stringValue": other.to_string()}),
    };
    json!({"key": key, "value": value})
}

/// A record as a `LogRecord`.
fn log(record: &FlowRecord) -> Value {
    let (number, severity) = match record.kind {
        RecordType::Denied => (13, "WARN"),
        RecordType::Audit => (10, "INFO2"),
        RecordType::New | RecordType::Ended => (9, "INFO"),
    };
    let time = humantime::parse_rfc3339(&record.time)
        .unwrap_or(UNIX_EPOCH)
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut attributes = Vec::new();
    let mut put = |key: &str, value: Value| {
        if !value.is_null() {
            attributes.push(attribute(key, value));
        }
    };
    put("cofferdam.type", record.kind.as_str().into());
    put("cofferdam.verdict", record.verdict.word().into());
    put("cofferdam.reason", record.reason.name().into());
    put("cofferdam.direction", record.direction.word().into());
    put("cofferdam.hook", record.hook.name().into());
    put("cofferdam.revision", record.revision.into());
    put("cofferdam.count", record.count.into());
    put("cofferdam.packets", record.packets.into());
    put("cofferdam.bytes", record.bytes.into());
    put("cofferdam.duration_ms", record.duration_ms.into());
    put("network.transport", record.protocol.as_str().into());
    put("cofferdam.tcp_flags", record.tcp_flags.clone().into());
    let icmp = record
        .icmp
        .map(|icmp| format!("{}/{}", icmp.kind, icmp.code));
    put("cofferdam.icmp", icmp.into());
    let mut end = |side: &str, end: &FlowEnd| {
        let address = end.address.map(|address| address.to_string());
        put(&format!("{side}.address"), address.into());
        put(&format!("{side}.port"), end.port.into());
        put(&format!("{side}.namespace"), end.namespace.clone().into());
        put(&format!("{side}.workload"), end.workload.clone().into());
        put(&format!("{side}.node"), end.node.clone().into());
        for (key, value) in &end.labels {
            put(&format!("{side}.label.{key}"), value.as_str().into());
        }
    };
    end("source", &record.source);
    end("destination", &record.destination);
    // The one that decided, or the first that isolates.
    if let Some(rule) = record.rule.as_ref().or(record.isolated_by.first()) {
        // An object of an API server has none.
        let line = Some(rule.line).filter(|line| *line != 0);
        put("cofferdam.policy.kind", rule.kind.as_str().into());
        put("cofferdam.policy.namespace", rule.namespace.clone().into());
        put("cofferdam.policy.name", rule.name.as_str().into());
        put("cofferdam.rule", rule.index.into());
        put("code.file.path", rule.file.as_str().into());
        put("code.line.number", line.into());
    }
    json!({
        "timeUnixNano": time.as_nanos().to_string(),
        "severityNumber": number,
        "severityText": severity,
        "eventName": format!("cofferdam.flow.{}", record.kind.as_str()),
        "body": {"stringValue": sentence(record)},
        "attributes": attributes,
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;

    use super::*;
    use crate::records::tests::record;

    /// Answers requests with these, and closes the connection behind one that says so; returns
    /// what was asked.
    fn collector(
        answers: &'static [&'static str],
    ) -> (Uri, thread::JoinHandle<Vec<(String, Value)>>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = thread::spawn(move || {
            let accept = || BufReader::new(listener.accept().unwrap().0);
            let mut read = accept();
            let mut asked = Vec::new();
            for (place, answer) in answers.iter().enumerate() {
                if place > 0 && answers[place - 1].contains("Connection: close") {
                    read = accept();
                }
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    assert!(read.read_line(&mut head).unwrap() > 0, "{head}");
                }
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "));
                let mut body = vec![0; length.unwrap().parse().unwrap()];
                read.read_exact(&mut body).unwrap();
                asked.push((head, serde_json::from_slice(&body).unwrap()));
                read.get_mut().write_all(answer.as_bytes()).unwrap();
            }
            asked
        });
        (address.parse().unwrap(), asked)
    }

    fn value<'v>(attributes: &'v Value, key: &str) -> &'v Value {
        let mut all = attributes.as_array().unwrap().iter();
        &all.find(|one| one["key"] == key).unwrap()["value"]
    }

    #[test]
    fn a_batch_is_one_request_and_the_connection_serves_again() {
        let (address, asked) = collector(&[
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\nContent-Length: 46\r\n\r\n{\"partialSuccess\":{\"rejectedLogRecords\":\"1\"}} ",
            "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        ]);
        let mut otlp = Otlp::new(address).unwrap();
        let records = [record(RecordType::Denied), record(RecordType::Audit)];
        otlp.pass_on(&records).unwrap();
        assert_eq!(
            otlp.pass_on(&records).unwrap_err().count,
            1,
            "one is rejected"
        );
        let refused = otlp.pass_on(&records).unwrap_err();
        assert_eq!(refused.count, 2);
        assert!(refused.source.to_string().contains("400"), "{refused}");
        let asked = asked.join().unwrap();
        let (head, body) = &asked[0];
        assert!(head.starts_with("POST /v1/logs HTTP/1.1\r\n"), "{head}");
        assert!(
            head.contains("content-type: application/json\r\n"),
            "{head}"
        );
        let batch = &body["resourceLogs"][0];
        let node = value(&batch["resource"]["attributes"], "k8s.node.name");
        assert_eq!(node, &json!({"stringValue": "n1"}));
        let logs = batch["scopeLogs"][0]["logRecords"].as_array().unwrap();
        assert_eq!(logs.len(), 2);
        assert_eq!(logs[0]["severityText"], "WARN");
        assert_eq!(logs[1]["eventName"], "cofferdam.flow.audit");
        let reason = value(&logs[0]["attributes"], "cofferdam.reason");
        assert_eq!(reason, &json!({"stringValue": "rule"}));
        let time: u128 = logs[0]["timeUnixNano"].as_str().unwrap().parse().unwrap();
        assert!(time > 1_700_000_000_000_000_000, "{time}");
        // Nobody listens any more.
        assert_eq!(otlp.pass_on(&records).unwrap_err().count, 2);
    }

    /// A collector that is busy, or restarts, gets the batch when it can take it.
    #[test]
    fn a_batch_is_sent_again_to_a_collector_that_cannot_take_it_now() {
        let (address, asked) = collector(&[
            "HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 429 Slow\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        ]);
        let mut otlp = Otlp::new(address).unwrap();
        let begun = Instant::now();
        otlp.pass_on(&[record(RecordType::Denied)]).unwrap();
        assert!(
            begun.elapsed() >= Duration::from_secs(1),
            "as long as it asked for"
        );
        let asked = asked.join().unwrap();
        assert_eq!(asked.len(), 3);
        assert!(asked.iter().all(|(_, body)| *body == asked[0].1));
    }

    /// A collector that asks for more patience than there is loses the batch at once.
    #[test]
    fn a_pause_beyond_all_patience_is_not_waited_for() {
        let (address, asked) =
            collector(&["HTTP/1.1 503 Busy\r\nRetry-After: 600\r\nContent-Length: 0\r\n\r\n"]);
        let mut otlp = Otlp::new(address).unwrap();
        let begun = Instant::now();
        let lost = otlp.pass_on(&[record(RecordType::Denied)]).unwrap_err();
        assert!(begun.elapsed() < PATIENCE);
        assert_eq!((lost.count, asked.join().unwrap().len()), (1, 1));
    }
}
