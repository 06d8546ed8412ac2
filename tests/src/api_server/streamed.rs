//! Lists that come as the beginning of a watch (KEP-3157).

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Arc, PoisonError};

use serde_json::{Value, json};

use super::http::chunk;
use super::kinds::Kind;
use super::{ApiServer, LOOK, Shared, status};

/// Way in which such lists are answered.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// They are; without it they are refused, as by a server that lacks the feature.
    is_offered: bool,
    /// Those of this kind stop after so many objects.
    half: Option<(String, usize)>,
}

impl ApiServer {
    /// Streams lists to those who ask for it.
    pub fn stream_lists(&self) {
        self.state().streams.is_offered = true;
    }

    /// Stops streamed lists of a kind after so many objects and a bookmark that does not end
    /// them, until told otherwise.
    pub fn stream_by_half(&self, half: Option<(&str, usize)>) {
        let half = half.map(|(kind, count)| (kind.to_owned(), count));
        self.state().streams.half = half;
        self.shared.changed.notify_all();
    }
}

/// Returns `true` if a watch is to begin with a list.
pub(super) fn is_asked(query: &BTreeMap<&str, &str>) -> bool {
    query.get("sendInitialEvents") == Some(&"true")
}

impl Streams {
    /// Returns the refusal of a watch that is to begin with a list.
    pub(super) fn refusal(&self, query: &BTreeMap<&str, &str>) -> Option<(u16, Value)> {
        let problem = if !self.is_offered {
            "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"
        } else if query.get("resourceVersionMatch") != Some(&"NotOlderThan")
            || query.get("allowWatchBookmarks") != Some(&"true")
        {
            "sendInitialEvents requires resourceVersionMatch=NotOlderThan and bookmarks"
        } else {
            return None;
        };
        Some((422, status(422, "Invalid", problem)))
    }
}

/// Writes all objects of a kind, and that those were all. Returns the version that they are of.
pub(super) fn write(
    stream: &mut impl Write,
    shared: &Shared,
    kind: &'static str,
) -> io::Result<u64> {
    let api_version = Kind::named(kind).map(|kind| kind.version);
    let state = shared.state();
    let version = state.version;
    let of_kind = state.objects.iter().filter(|((one, ..), _)| one == kind);
    let objects: Vec<Arc<str>> = of_kind.map(|(_, object)| object.clone()).collect();
    drop(state);
    let mut event = |word: &str, object: &str| {
        let event = format!("{{\"type\":\"{word}\",\"object\":{object}}}\n");
        chunk(stream, &event)?;
        let mut state = shared.state();
        state.traffic.entry(kind).or_default().listed_bytes += event.len() as u64;
        Ok::<_, io::Error>(())
    };
    let bookmark = |annotations: Value| {
        json!({
            "kind": kind, "apiVersion": api_version,
            "metadata": {"resourceVersion": version.to_string(), "annotations": annotations},
        })
        .to_string()
    };
    let mut is_told = false;
    for (index, object) in objects.iter().enumerate() {
        let mut state = shared.state();
        while state.streams.half == Some((kind.to_owned(), index)) && !state.is_over {
            if !std::mem::replace(&mut is_told, true) {
                drop(state);
                event("BOOKMARK", &bookmark(json!({})))?;
                state = shared.state();
                continue;
            }
            let waited = shared.changed.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        event("ADDED", object)?;
    }
    let end = bookmark(json!({"k8s.io/initial-events-end": "true"}));
    event("BOOKMARK", &end)?;
    Ok(version)
}
