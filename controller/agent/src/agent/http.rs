//! `/metrics`, `/healthz` and `/readyz`.
//!
//! Three fixed answers to `GET`: hyper alone does that, a framework would only add
//! routes. Nothing here tells of addresses, labels or policies' names.
//!
//! The server has a thread of its own, and one more for callers over TLS, who come from other
//! machines and must not keep those of this one waiting. Invariant: each page is there within
//! 100 ms, whatever other callers do and however busy the agent is. A page then says what the
//! agent knew last.

mod connections;
mod latest;
mod tls;

use cofferdam_syntax::diagnostic::chain;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender as Messages;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use cofferdam_telemetry::metrics::{Facts, Renderer};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::reconcile::Message;
use connections::Connections;
use latest::Latest;

pub(super) use tls::Tls;

/// Time that a caller may take for its request.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);
/// Time that a connection may last.
const CONNECTION_WITHIN: Duration = Duration::from_secs(10);
/// Time and bytes for which a caller may go on talking after the answer: closed with something
/// unread, the connection would be reset, and the answer lost.
const LAST_WORDS: (Duration, u64) = (Duration::from_secs(1), 1 << 20);
/// Bytes of a request's head.
const MAX_HEAD: usize = 16 << 10;
/// Questions that wait for an answer; there are never more than connections.
const QUESTIONS: usize = 256;

/// A page: status and text.
type Page = (StatusCode, Bytes);

/// Source of pages.
pub(super) struct Origin {
    /// The reconciling thread.
    pub(super) messages: Messages<Message>,
    /// Facts that it gave before it answered a sync.
    pub(super) synced: watch::Receiver<Option<Arc<Facts>>>,
    /// Makes metrics of facts.
    pub(super) renderer: Renderer,
}

/// Maker of each page.
#[derive(Clone)]
struct Makers {
    metrics: mpsc::Sender<oneshot::Sender<Page>>,
    health: mpsc::Sender<oneshot::Sender<Health>>,
}

/// Answer to `/healthz` and `/readyz`.
#[derive(Clone)]
enum Health {
    /// The agent works; with what keeps it from being ready.
    Working(Arc<Vec<String>>),
    /// The reconciling thread does nothing any more.
    Stuck,
}

/// Listeners for callers.
pub(super) struct Listeners {
    /// In the clear.
    pub(super) plain: Option<StdListener>,
    /// Over TLS.
    pub(super) tls: Option<(StdListener, Tls)>,
}

/// Starts the threads that answer for as long as the agent runs.
///
/// # Errors
/// When there is no thread to be had.
pub(super) fn start(listeners: Listeners, origin: Origin) -> Result<()> {
    let (metrics, asked) = mpsc::channel(QUESTIONS);
    let (health, asked_health) = mpsc::channel(QUESTIONS);
    let makers = Makers { metrics, health };
    let evicted = Arc::new(AtomicU64::new(0));
    let counted = evicted.clone();
    if let Some((listener, tls)) = listeners.tls {
        let door = Door {
            makers: makers.clone(),
            tls: Some(tls),
            connections: Connections::counting(evicted.clone()),
        };
        spawn("https", async { door.serve(listener).await })?;
    }
    let plain = listeners.plain.map(|listener| {
        let connections = Connections::counting(evicted);
        let door = Door {
            makers,
            tls: None,
            connections,
        };
        (door, listener)
    });
    spawn("http", async {
        let latest = Latest::new(origin.messages.clone(), Message::Readiness);
        let health = tokio::spawn(tell_health(latest, asked_health));
        tokio::spawn(tell_metrics(origin, asked, counted));
        match plain {
            Some((door, listener)) => door.serve(listener).await,
            // Those over TLS are answered from here.
            None => health.await.map_err(std::io::Error::other),
        }
    })
}

/// Runs something on a thread of its own until it fails.
fn spawn(
    name: &str,
    serve: impl Future<Output = std::io::Result<()>> + Send + 'static,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime of the HTTP server")?;
    let serve = move || {
        if let Err(error) = runtime.block_on(serve) {
            tracing::error!(
                "metrics and health are not served any more: {}",
                chain(&error)
            );
        }
    };
    let thread = thread::Builder::new().name(name.to_owned()).spawn(serve);
    thread.context("cannot start a thread").map(drop)
}

/// A way in for callers.
struct Door {
    makers: Makers,
    tls: Option<Tls>,
    connections: Connections,
}

impl Door {
    async fn serve(mut self, listener: StdListener) -> std::io::Result<()> {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, say.
                    tracing::error!("cannot take a connection for metrics: {}", chain(&error));
                    self.connections.close_one();
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
            self.connections.make_room();
            let has_asked = Arc::new(AtomicBool::new(false));
            let (makers, asked) = (self.makers.clone(), has_asked.clone());
            let acceptor = self.tls.as_mut().map(Tls::acceptor);
            let conversation = async move {
                match acceptor {
                    None => converse(stream, makers, asked).await,
                    // Why a caller is refused is told to it by TLS.
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            converse(stream, makers, asked).await;
                        }
                    }
                }
            };
            // Callers that go away are no concern of ours.
            let task = tokio::spawn(async { _ = timeout(CONNECTION_WITHIN, conversation).await });
            self.connections.add(task.abort_handle(), has_asked);
        }
    }
}

/// Answers one request.
async fn converse<S>(stream: S, makers: Makers, has_asked: Arc<AtomicBool>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request: Request<Incoming>| {
        has_asked.store(true, Ordering::Relaxed);
        Box::pin(answer(request, &makers))
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_WITHIN)
        .max_buf_size(MAX_HEAD)
        .half_close(true)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = connection;
    // Whatever was wrong with the request has been told to the caller.
    _ = poll_fn(|context| connection.poll_without_shutdown(context)).await;
    let mut stream = connection.into_parts().io.into_inner();
    if stream.shutdown().await.is_ok() {
        let (time, bytes) = LAST_WORDS;
        let mut nowhere = tokio::io::sink();
        let mut rest = stream.take(bytes);
        _ = timeout(time, tokio::io::copy(&mut rest, &mut nowhere)).await;
    }
}

async fn answer(
    request: Request<Incoming>,
    makers: &Makers,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
    let (status, text) = match request.uri().path() {
        _ if !is_get => page(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"),
        "/metrics" => ask(&makers.metrics).await.unwrap_or_else(stuck),
        "/healthz" => match ask(&makers.health).await {
            Some(Health::Working(_)) => page(StatusCode::OK, "ok\n"),
            Some(Health::Stuck) | None => stuck(),
        },
        "/readyz" => match ask(&makers.health).await {
            Some(Health::Working(obstacles)) if obstacles.is_empty() => {
                page(StatusCode::OK, "ok\n")
            }
            Some(Health::Working(obstacles)) => {
                page(StatusCode::SERVICE_UNAVAILABLE, obstacles.join("\n") + "\n")
            }
            Some(Health::Stuck) | None => stuck(),
        },
        _ => page(
            StatusCode::NOT_FOUND,
            "there are /metrics, /healthz and /readyz\n",
        ),
    };
    let mut response = Response::new(Full::new(text));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
    );
    Ok(response)
}

fn page(status: StatusCode, text: impl Into<Bytes>) -> Page {
    (status, text.into())
}

fn stuck() -> Page {
    page(
        StatusCode::INTERNAL_SERVER_ERROR,
        "the agent does not answer\n",
    )
}

async fn ask<T>(maker: &mpsc::Sender<oneshot::Sender<T>>) -> Option<T> {
    let (sender, reply) = oneshot::channel();
    maker.send(sender).await.ok()?;
    reply.await.ok()
}

/// Waits for callers, and returns all who have come until then; `None` if none can come.
async fn callers<T>(asked: &mut mpsc::Receiver<T>) -> Option<Vec<T>> {
    let mut callers = vec![asked.recv().await?];
    while let Ok(one) = asked.try_recv() {
        callers.push(one);
    }
    Some(callers)
}

/// Says to callers how the agent is.
async fn tell_health(
    mut latest: Latest<Vec<String>>,
    mut asked: mpsc::Receiver<oneshot::Sender<Health>>,
) {
    // So that there is an answer when the thread is busy.
    latest.get().await;
    while let Some(callers) = callers(&mut asked).await {
        let health = match latest.get().await {
            Some(obstacles) if !latest.is_stuck() => Health::Working(obstacles),
            _ => Health::Stuck,
        };
        for caller in callers {
            // The caller may have gone.
            _ = caller.send(health.clone());
        }
    }
}

/// Makes metrics for callers: one page for all who ask at a time.
async fn tell_metrics(
    origin: Origin,
    mut asked: mpsc::Receiver<oneshot::Sender<Page>>,
    evicted: Arc<AtomicU64>,
) {
    let Origin {
        messages,
        synced,
        mut renderer,
    } = origin;
    let mut latest = Latest::new(messages, Message::Metrics);
    // So that there is an answer when the thread is busy.
    latest.get().await;
    while let Some(callers) = callers(&mut asked).await {
        let asked = latest.get().await;
        let synced = synced.borrow().clone();
        let newest = asked.into_iter().chain(synced);
        let Some(facts) = newest.max_by_key(|facts| facts.gathered) else {
            continue;
        };
        let age = match latest.is_behind() {
            true => facts.gathered.elapsed(),
            false => Duration::ZERO,
        };
        let evicted = evicted.load(Ordering::Relaxed);
        // Many series take a while, and others want to know about health.
        let rendering = tokio::task::spawn_blocking(move || {
            let text = renderer.render(&facts, age, evicted);
            (renderer, text)
        });
        let text = match rendering.await {
            Ok((same, text)) => {
                renderer = same;
                text
            }
            Err(error) => {
                tracing::error!("cannot write metrics any more: {}", chain(&error));
                return;
            }
        };
        let page = match text {
            Ok(text) => page(StatusCode::OK, text),
            Err(error) => {
                tracing::error!("cannot write metrics: {}", chain(&error));
                stuck()
            }
        };
        for caller in callers {
            // The caller may have gone.
            _ = caller.send(page.clone());
        }
    }
}
