//! Lists of the server, page by page, and its watches.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::ops::Bound;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use serde_json::json;

use super::http::chunk;
use super::kinds::{Kind, Target, owned_key};
use super::{Event, LOOK, Shared, State, Stream, status, streamed};

impl State {
    /// Returns the next event of a kind that may be told now. `passed` is the version up to
    /// which there is none, and moves on.
    fn next_event(&self, kind: &str, passed: &mut u64) -> Option<&Event> {
        let first = self
            .events
            .partition_point(|event| event.version <= *passed);
        for event in self.events.range(first..) {
            if event.kind == kind {
                return (event.at.elapsed() >= self.delay).then_some(event);
            }
            *passed = event.version;
        }
        None
    }
}

/// A page of a list, as JSON. Its token says of which version the list is, and the last object
/// that was listed: names have no underline.
pub(super) fn list(
    shared: &Shared,
    target: &Target<'_>,
    query: &BTreeMap<&str, &str>,
) -> (u16, String) {
    let Kind {
        name: kind,
        version,
        ..
    } = *target.kind;
    let mut state = shared.state();
    let token = query.get("continue").and_then(|token| {
        let (of, rest) = token.split_once('_')?;
        let (namespace, name) = rest.split_once('_')?;
        Some((of.parse::<u64>().ok()?, namespace, name))
    });
    while token.is_some() && state.half_listed.as_deref() == Some(kind) && !state.is_over {
        let waited = shared.changed.wait_timeout(state, LOOK);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
    let of = token.map_or(state.version, |(of, ..)| of);
    if of < state.oldest {
        return (
            410,
            status(410, "Expired", "the token has expired").to_string(),
        );
    }
    let start = match token {
        Some((_, namespace, name)) => Bound::Excluded(owned_key(kind, namespace, name)),
        None => Bound::Included(owned_key(kind, "", "")),
    };
    let limit = query.get("limit").and_then(|limit| limit.parse().ok());
    let limit: usize = limit.unwrap_or(usize::MAX);
    let limit = if state.page == 0 {
        limit
    } else {
        limit.min(state.page)
    };
    let mut rest = (state.objects.range((start, Bound::Unbounded)))
        .take_while(|((one, ..), _)| one == kind)
        .filter(|((_, namespace, _), _)| target.namespace.is_none_or(|wanted| namespace == wanted))
        .peekable();
    let mut items = String::new();
    let mut last = None;
    for (key, text) in rest.by_ref().take(limit) {
        if last.is_some() {
            items.push(',');
        }
        items.push_str(text);
        last = Some(key);
    }
    let mut metadata = json!({"resourceVersion": of.to_string()});
    if let Some((_, namespace, name)) = last.filter(|_| rest.peek().is_some()) {
        metadata["continue"] = json!(format!("{of}_{namespace}_{name}"));
    }
    let page = format!(
        r#"{{"kind":"{kind}List","apiVersion":"{version}","metadata":{metadata},"items":[{items}]}}"#
    );
    let traffic = state.traffic.entry(kind).or_default();
    traffic.listed_bytes += page.len() as u64;
    (200, page)
}

/// Writes events of a kind as they happen.
pub(super) fn watch(
    mut stream: Box<dyn Stream>,
    shared: &Shared,
    kind: &'static str,
    query: &BTreeMap<&str, &str>,
) -> io::Result<()> {
    let number = |key: &str| query.get(key).and_then(|value| value.parse::<u64>().ok());
    let mut seen = number("resourceVersion").unwrap_or(0);
    let wants_bookmarks = query.get("allowWatchBookmarks") == Some(&"true");
    let deadline = Instant::now() + Duration::from_secs(number("timeoutSeconds").unwrap_or(300));
    stream.write_all(
        b"HTTP/1.1 200 \r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
    )?;
    stream.flush()?;
    if streamed::is_asked(query) {
        seen = streamed::write(&mut stream, shared, kind)?;
    } else if seen < shared.state().oldest {
        let gone = status(410, "Expired", "too old resource version");
        let event = json!({"type": "ERROR", "object": gone});
        chunk(&mut stream, &format!("{event}\n"))?;
        return chunk(&mut stream, "");
    }
    loop {
        let mut state = shared.state();
        let event = loop {
            if state.is_over {
                return Ok(());
            }
            if Instant::now() > deadline {
                drop(state);
                return chunk(&mut stream, "");
            }
            let is_silent = state.is_silent;
            let new = state.next_event(kind, &mut seen);
            if let Some(event) = new.filter(|_| !is_silent) {
                break event.clone();
            }
            let waited = shared.changed.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        seen = event.version;
        if event.word == "BOOKMARK" && !wants_bookmarks {
            continue;
        }
        let mut text = String::with_capacity(event.object.len() + 64);
        writeln!(
            text,
            r#"{{"type":"{}","object":{}}}"#,
            event.word, event.object
        )
        .expect("writing to a string");
        if std::mem::take(&mut state.is_torn) {
            drop(state);
            chunk(&mut stream, &text[..text.len() / 2])?;
            shared.state().cut();
            return Ok(());
        }
        drop(state);
        chunk(&mut stream, &text)?;
        let mut state = shared.state();
        state.written.insert(kind, seen);
        let traffic = state.traffic.entry(kind).or_default();
        traffic.watched_bytes += text.len() as u64;
        traffic.events += 1;
    }
}
