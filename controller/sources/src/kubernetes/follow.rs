//! Follows a server: lists each kind, watches it from there, and begins again where that is
//! not possible.
//!
//! A list comes as the beginning of the watch, where the server does that: neither side then holds
//! a page of it. A server that refuses, or ends such a list in the middle, is asked for pages.
//! Either way a list counts when it is whole.
//!
//! A watch that ends or is cut goes on from the last version that it told; one whose version
//! the server has forgotten begins with a list, during which what was known stays. After a
//! failure the next try waits, longer each time and never as long as another agent's.

use cofferdam_syntax::diagnostic::chain;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cofferdam_documents::Kind;
use futures_util::StreamExt as _;
use kube::Client;
use kube::core::WatchEvent;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::connection::{self, ApiError, connect};
use super::object::{Object, Read, Spec};
use super::{Awaited, BETWEEN_QUESTIONS, Settings, Shared};
use crate::pause::Pause;

/// Times that the server is to keep up a watch, in seconds: agents that began together do not
/// come again together.
const WATCH_SECONDS: std::ops::Range<u32> = 240..300;
/// Longest silence after that before the connection counts as dead.
const GRACE: Duration = Duration::from_secs(15);
/// A watch that ends sooner than this was not kept up by the server.
const BRIEF: Duration = Duration::from_secs(1);
/// Time from one look for a kind that has gone to the next, before it counts as gone: a
/// server that starts does not know all kinds at once.
const BEFORE_GONE: Duration = Duration::from_secs(2);

/// Longest time until a list that is streamed is whole: servers that do not know the awaited
/// tell objects and never that they were all.
const UNTIL_LISTED: Duration = Duration::from_secs(60);

/// The end of a watch.
enum Ended {
    /// The server ended it; it goes on from the last version.
    Over,
    /// The server has forgotten the version to go on from.
    Gone,
    /// The server does not stream lists.
    Refused,
    /// The list with which it was to begin was not whole.
    Partly,
}

/// The form in which the next list is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lists {
    /// As the beginning of a watch.
    Streamed,
    /// By pages, because a stream ended too soon.
    PagedOnce,
    /// By pages, because the server does nothing else.
    Paged,
}

/// Progress in following a kind.
struct Position {
    /// The version to go on watching from; `None` if everything is to be listed first.
    version: Option<String>,
    lists: Lists,
}

/// Follows all kinds, and asks for pods that are waited for, until nobody asks any more.
pub(super) async fn follow_all(
    settings: Settings,
    shared: Arc<Shared>,
    mut asked: mpsc::UnboundedReceiver<Awaited>,
) {
    let settings = Arc::new(settings);
    for kind in Kind::ALL {
        let (settings, shared) = (settings.clone(), shared.clone());
        if kind.is_policy() {
            tokio::spawn(async move { follow::<Object<Value>>(kind, &settings, &shared).await });
        } else {
            tokio::spawn(async move { follow::<Object<Spec>>(kind, &settings, &shared).await });
        }
    }
    while let Some(awaited) = asked.recv().await {
        let (settings, shared) = (settings.clone(), shared.clone());
        tokio::spawn(async move { ask(&awaited, &settings, &shared).await });
    }
    // With the runtime everything else ends.
}

async fn follow<O: Read>(kind: Kind, settings: &Settings, shared: &Shared) {
    let mut pause = Pause::new(settings.longest_pause);
    let mut position = Position {
        version: None,
        lists: Lists::Streamed,
    };
    loop {
        let Err(error) =
            follow_until_failure::<O>(kind, settings, shared, &mut position, &mut pause).await;
        shared.note_failure(kind, chain(&error));
        pause.wait().await;
    }
}

/// Follows a kind with one client.
async fn follow_until_failure<O: Read>(
    kind: Kind,
    settings: &Settings,
    shared: &Shared,
    position: &mut Position,
    pause: &mut Pause,
) -> Result<Infallible, ApiError> {
    let client = connect(settings.kubeconfig.as_deref()).await?;
    loop {
        let is_list = position.version.is_none();
        let began = Instant::now();
        let ended = if is_list && position.lists != Lists::Streamed {
            list::<O>(&client, kind, shared, position, pause).await
        } else {
            watch::<O>(&client, kind, settings, shared, position, pause).await
        };
        match ended {
            Ok(Ended::Over) if !is_list && began.elapsed() < BRIEF => pause.wait().await,
            Ok(Ended::Over) => {}
            Ok(Ended::Gone) => position.version = None,
            Ok(Ended::Refused) => position.lists = Lists::Paged,
            Ok(Ended::Partly) => position.lists = Lists::PagedOnce,
            // Its definition was removed while it was watched.
            Err(ApiError::NotServed) if !is_list => position.version = None,
            Err(ApiError::NotServed) if kind == Kind::ClusterNetworkPolicy => {
                take_absence(&client, kind, settings, shared).await?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Lists a kind by pages.
async fn list<O: Read>(
    client: &Client,
    kind: Kind,
    shared: &Shared,
    position: &mut Position,
    pause: &mut Pause,
) -> Result<Ended, ApiError> {
    let (objects, listed) = connection::list::<O>(client, kind).await?;
    shared.note_success(kind);
    pause.reset();
    shared.change(|store| store.replace(kind, objects));
    position.version = Some(listed);
    if position.lists == Lists::PagedOnce {
        position.lists = Lists::Streamed;
    }
    Ok(Ended::Over)
}

/// Takes it that the server does not have a kind, if that is so, and waits for the next look.
async fn take_absence(
    client: &Client,
    kind: Kind,
    settings: &Settings,
    shared: &Shared,
) -> Result<(), ApiError> {
    let has_objects = shared.state().store.count(kind) > 0;
    let looks = if has_objects { 2 } else { 1 };
    for look in 0..looks {
        if look > 0 {
            sleep(BEFORE_GONE).await;
        }
        if connection::is_served(client, kind).await? {
            return Err(ApiError::NotServed);
        }
    }
    shared.note_success(kind);
    shared.change(|store| store.replace(kind, Vec::new()));
    sleep(settings.between_looks.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
    Ok(())
}

/// Watches a kind from a version on, and keeps that version. Without one the watch begins with a
/// list.
async fn watch<O: Read>(
    client: &Client,
    kind: Kind,
    settings: &Settings,
    shared: &Shared,
    position: &mut Position,
    pause: &mut Pause,
) -> Result<Ended, ApiError> {
    let seconds = fastrand::u32(WATCH_SECONDS);
    let version = &mut position.version;
    // Objects of a list that is not whole yet, by their names.
    let mut listed = version.is_none().then(BTreeMap::new);
    let is_list = listed.is_some();
    let events = connection::watch::<O>(client, kind, version.as_deref(), seconds).await;
    let events = match events {
        Err(error) => return ended(error, is_list),
        Ok(events) => events,
    };
    if !is_list {
        shared.note_success(kind);
    }
    let mut events = std::pin::pin!(events);
    let began = Instant::now();
    let mut last = began;
    loop {
        let wait = match listed {
            Some(_) => (settings.quiet).min(UNTIL_LISTED.saturating_sub(began.elapsed())),
            None => settings.quiet,
        };
        let event = timeout(wait, events.next()).await;
        if listed.is_some() && began.elapsed() > UNTIL_LISTED {
            return Ok(Ended::Partly);
        }
        let Ok(event) = event else {
            if last.elapsed() > Duration::from_secs(seconds.into()) + GRACE {
                return Err(ApiError::Silent);
            }
            check_presence(client, settings, shared).await?;
            continue;
        };
        last = Instant::now();
        let event = match event {
            None if listed.is_some() => return Ok(Ended::Partly),
            None => return Ok(Ended::Over),
            Some(Ok(WatchEvent::Error(status))) => {
                return ended(ApiError::from(*status), listed.is_some());
            }
            Some(Err(error)) => return ended(error, listed.is_some()),
            Some(Ok(event)) => event,
        };
        if listed.is_none() {
            pause.reset();
        }
        // Whoever asks the server holds it, and will hear from it as well.
        if let Ok(mut heard) = shared.heard.try_lock() {
            *heard = last;
        }
        let (object, is_deleted) = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
            WatchEvent::Deleted(object) => (object, true),
            WatchEvent::Bookmark(bookmark) => {
                let is_whole = connection::is_end_of_list(&bookmark);
                if let Some(objects) = listed.take_if(|_| is_whole) {
                    shared.note_success(kind);
                    pause.reset();
                    let objects = objects.into_values().collect();
                    shared.change(|store| store.replace(kind, objects));
                }
                if listed.is_none() {
                    *version = Some(bookmark.metadata.resource_version);
                }
                continue;
            }
            // An error ends it above.
            WatchEvent::Error(_) => continue,
        };
        let told = object.version().map(str::to_owned);
        let object = object.strip_to(kind);
        if let Some(objects) = &mut listed {
            // What changes meanwhile may be told before the list is whole.
            match is_deleted {
                true => _ = objects.remove(&object.name),
                false => _ = objects.insert(object.name.clone(), object),
            }
            continue;
        }
        *version = told.or(version.take());
        shared.change(|store| match is_deleted {
            true => store.remove(kind, &object),
            false => store.apply(kind, object),
        });
    }
}

/// Returns the end of a watch by an error, which may be about the list with which it begins.
fn ended(error: ApiError, is_list: bool) -> Result<Ended, ApiError> {
    match error {
        ApiError::Gone if is_list => Ok(Ended::Partly),
        ApiError::Gone => Ok(Ended::Gone),
        ApiError::Refused {
            code: 400 | 403 | 422,
            ..
        } if is_list => Ok(Ended::Refused),
        error => Err(error),
    }
}

/// Asks the server if it is there, unless it has said something lately. A machine that is
/// switched off closes no connection.
async fn check_presence(
    client: &Client,
    settings: &Settings,
    shared: &Shared,
) -> Result<(), ApiError> {
    let mut heard = shared.heard.lock().await;
    if heard.elapsed() < settings.quiet {
        return Ok(());
    }
    match timeout(settings.quiet, connection::version(client)).await {
        Err(_) => Err(ApiError::Silent),
        // It is there to refuse.
        Ok(Ok(()) | Err(ApiError::Refused { .. } | ApiError::NotServed)) => {
            *heard = Instant::now();
            Ok(())
        }
        Ok(Err(error)) => Err(error),
    }
}

/// Asks for a pod until it is known or nobody waits for it any more.
async fn ask(awaited: &Awaited, settings: &Settings, shared: &Shared) {
    let left = awaited.deadline.saturating_duration_since(Instant::now());
    // Whoever waits says that the time has passed.
    _ = timeout(left, async {
        while !is_known(awaited, shared) {
            if let Err(error) = ask_once(awaited, settings, shared).await {
                tracing::debug!(
                    namespace = awaited.namespace,
                    pod = awaited.name,
                    "no answer about a pod: {}",
                    chain(&error)
                );
            }
            sleep(BETWEEN_QUESTIONS).await;
        }
    })
    .await;
}

fn is_known(awaited: &Awaited, shared: &Shared) -> bool {
    let Awaited {
        namespace,
        name,
        uid,
        ..
    } = awaited;
    let pod = shared.state().store.pod(namespace, name, uid.as_deref());
    pod.is_some_and(|pod| pod.node.is_some())
}

async fn ask_once(awaited: &Awaited, settings: &Settings, shared: &Shared) -> Result<(), ApiError> {
    let client = connect(settings.kubeconfig.as_deref()).await?;
    let pod = connection::pod(&client, &awaited.namespace, &awaited.name).await?;
    shared.change(|store| store.answer(Kind::Pod, pod));
    Ok(())
}
