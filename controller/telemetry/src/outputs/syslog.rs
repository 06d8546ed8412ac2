//! Records as syslog messages of RFC 5424, with the fields as structured data.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cofferdam_protocol::output::{FlowEnd, FlowRecord, RecordType};
use cofferdam_protocol::words::ClosedList as _;

use super::{Lost, Sink, sentence};

/// Facility of the messages: system daemons.
const DAEMON: u8 = 3;

/// Name of the structured data. The number is reserved for those who have none of their own
/// (RFC 5612).
const DATA: &str = "flow@32473";

/// Longest time to connect, and to write.
const PATIENCE: Duration = Duration::from_secs(2);

/// A place where syslog messages are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Collector {
    /// A socket of datagrams, such as `/dev/log`.
    Unix(PathBuf),
    /// A host and port, a datagram each message.
    Udp(String),
    /// A host and port, messages in a stream behind their lengths (RFC 6587).
    Tcp(String),
}

/// Sends records to a collector.
#[derive(Debug)]
pub struct Syslog {
    collector: Collector,
    connection: Option<Connection>,
}

#[derive(Debug)]
enum Connection {
    Unix(UnixDatagram),
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Syslog {
    /// Sends to this collector. It is looked for when there is a record, and again after
    /// each failure.
    #[must_use]
    pub fn new(collector: Collector) -> Self {
        Self {
            collector,
            connection: None,
        }
    }

    fn send(&mut self, message: &str) -> io::Result<()> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(connect(&self.collector)?),
        };
        let bytes = message.as_bytes();
        let sent = match connection {
            Connection::Unix(socket) => socket.send(bytes).map(drop),
            Connection::Udp(socket) => socket.send(bytes).map(drop),
            Connection::Tcp(stream) => {
                let framed = format!("{} {message}", bytes.len());
                stream.write_all(framed.as_bytes())
            }
        };
        if sent.is_err() {
            self.connection = None;
        }
        sent
    }
}

impl Sink for Syslog {
    fn pass_on(&mut self, records: &[Arc<FlowRecord>]) -> Result<(), Lost> {
        for (sent, record) in records.iter().enumerate() {
            self.send(&message(record)).map_err(|source| Lost {
                count: (records.len() - sent) as u64,
                source,
            })?;
        }
        Ok(())
    }
}

fn connect(collector: &Collector) -> io::Result<Connection> {
    match collector {
        Collector::Unix(path) => {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            socket.set_write_timeout(Some(PATIENCE))?;
            Ok(Connection::Unix(socket))
        }
        Collector::Udp(name) => {
            let to = resolve(name)?;
            let any: SocketAddr = match to {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            let socket = UdpSocket::bind(any)?;
            socket.connect(to)?;
            Ok(Connection::Udp(socket))
        }
        Collector::Tcp(name) => {
            let stream = TcpStream::connect_timeout(&resolve(name)?, PATIENCE)?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(Connection::Tcp(stream))
        }
    }
}

/// The first address of a host and port.
fn resolve(name: &str) -> io::Result<SocketAddr> {
    let mut addresses = name.to_socket_addrs()?;
    let none = || io::Error::other(format!("{name} has no address"));
    addresses.next().ok_or_else(none)
}

/// A record as a message.
fn message(record: &FlowRecord) -> String {
    let severity = match record.kind {
        RecordType::Denied => 4,
        RecordType::Audit => 5,
        RecordType::New | RecordType::Ended => 6,
    };
    let host: String = (record.node.chars())
        .filter(char::is_ascii_graphic)
        .take(255)
        .collect();
    let host = if host.is_empty() { "-" } else { &host };
    let mut text = format!(
        "<{}>1 {} {host} cofferdam {} {} [{DATA}",
        DAEMON * 8 + severity,
        microseconds(&record.time),
        std::process::id(),
        record.kind.as_str(),
    );
    let mut put = |name: &str, value: &str| {
        write!(text, " {name}=\"").expect("writing to a string");
        for c in value.chars() {
            match c {
                '"' | '\\' | ']' => text.extend(['\\', c]),
                c if c.is_control() => text.extend(c.escape_default()),
                c => text.push(c),
            }
        }
        text.push('"');
    };
    put("verdict", record.verdict.word());
    put("reason", record.reason.name());
    put("direction", record.direction.word());
    put("hook", record.hook.name());
    put("revision", &record.revision.to_string());
    put("count", &record.count.to_string());
    put("packets", &record.packets.to_string());
    put("bytes", &record.bytes.to_string());
    put("duration_ms", &record.duration_ms.to_string());
    put("protocol", &record.protocol);
    if let Some(flags) = &record.tcp_flags {
        put("tcp_flags", flags);
    }
    if let Some(icmp) = record.icmp {
        put("icmp", &format!("{}/{}", icmp.kind, icmp.code));
    }
    let mut end = |side: &str, end: &FlowEnd| {
        let address = end.address.map(|address| address.to_string());
        let port = end.port.map(|port| port.to_string());
        for (field, value) in [
            ("namespace", &end.namespace),
            ("workload", &end.workload),
            ("node", &end.node),
            ("address", &address),
            ("port", &port),
        ] {
            if let Some(value) = value {
                put(&format!("{side}_{field}"), value);
            }
        }
    };
    end("source", &record.source);
    end("destination", &record.destination);
    // The one that decided, or the first that isolates.
    if let Some(rule) = record.rule.as_ref().or(record.isolated_by.first()) {
        put("policy_kind", &rule.kind);
        if let Some(namespace) = &rule.namespace {
            put("policy_namespace", namespace);
        }
        put("policy", &rule.name);
        if let Some(index) = rule.index {
            put("rule", &index.to_string());
        }
        put("file", &rule.file);
        if rule.line != 0 {
            put("line", &rule.line.to_string());
        }
    }
    // The mark before a text of UTF-8.
    write!(text, "] \u{feff}{}", sentence(record)).expect("writing to a string");
    text
}

/// A time with six digits behind the second, the most that RFC 5424 takes.
fn microseconds(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, fraction)) => {
            let digits = fraction.chars().take_while(char::is_ascii_digit);
            format!("{seconds}.{}Z", digits.take(6).collect::<String>())
        }
        None => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpListener;

    use super::*;
    use crate::records::tests::record;

    /// A record whose names could break a message.
    fn hostile() -> Arc<FlowRecord> {
        let mut record = (*record(RecordType::Denied)).clone();
        record.time = "2026-01-31T12:00:00.123456789Z".to_owned();
        record.source.namespace = Some("shop".to_owned());
        record.source.workload = Some("a\"]\\\nb".to_owned());
        Arc::new(record)
    }

    #[test]
    fn a_message_has_head_data_and_text() {
        let text = message(&hostile());
        let head = format!(
            "<28>1 2026-01-31T12:00:00.123456Z n1 cofferdam {} denied [flow@32473 verdict=\"deny\" \
             reason=\"rule\" ",
            std::process::id()
        );
        assert!(text.starts_with(&head), "{text}");
        assert!(text.contains(r#" source_workload="a\"\]\\\nb""#), "{text}");
        assert!(!text.contains('\n'), "{text}");
        let (_, told) = text
            .split_once("] \u{feff}")
            .expect("a text behind the data");
        assert!(
            told.starts_with("deny rule ingress shop/a\"]\\\\nb"),
            "{told}"
        );
    }

    #[test]
    fn messages_reach_a_socket_of_datagrams_and_are_lost_without_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("syslog");
        let mut syslog = Syslog::new(Collector::Unix(path.clone()));
        let records = [hostile(), hostile()];
        assert_eq!(syslog.pass_on(&records).unwrap_err().count, 2);
        let collector = UnixDatagram::bind(&path).unwrap();
        syslog.pass_on(&records).unwrap();
        let mut buffer = [0; 4_096];
        for _ in 0..2 {
            let length = collector.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], message(&hostile()).as_bytes());
        }
        drop(collector);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(syslog.pass_on(&records).unwrap_err().count, 2);
    }

    #[test]
    fn messages_reach_a_port_by_udp_and_tcp() {
        let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = datagrams.local_addr().unwrap().to_string();
        let mut syslog = Syslog::new(Collector::Udp(address));
        syslog.pass_on(&[hostile()]).unwrap();
        let mut buffer = [0; 4_096];
        let length = datagrams.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], message(&hostile()).as_bytes());

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut syslog = Syslog::new(Collector::Tcp(address));
        syslog.pass_on(&[hostile(), hostile()]).unwrap();
        drop(syslog);
        let mut stream = String::new();
        let (mut connection, _) = listener.accept().unwrap();
        connection.read_to_string(&mut stream).unwrap();
        let message = message(&hostile());
        let framed = format!("{} {message}", message.len());
        assert_eq!(stream, framed.repeat(2));
    }
}
