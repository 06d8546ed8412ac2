//! `/metrics`, `/healthz` and `/readyz`.
//!
//! Three fixed answers to `GET`: hyper alone does that, a framework would only add
//! routes. Nothing here tells of addresses, labels or policies' names.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use crate::reconcile::Message;

/// Connections at a time; more wait.
const CONNECTIONS: usize = 32;
/// How long a caller may take for its request, and the reconciling thread for an
/// answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers for as long as the agent runs.
pub(super) async fn serve(listener: TcpListener, messages: Sender<Message>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(permit) = room.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::error!("cannot take a connection for metrics: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let messages = messages.clone();
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| answer(request, &messages));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // Callers that go away are no concern of ours.
            _ = timeout(2 * PATIENCE, connection).await;
            drop(permit);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    messages: &Sender<Message>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
    let (status, text) = match request.uri().path() {
        _ if !is_get => (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned()),
        "/metrics" => match ask(messages, Message::Metrics).await {
            Some(text) => (StatusCode::OK, text),
            None => stuck(),
        },
        "/healthz" => match ask(messages, Message::Readiness).await {
            Some(_) => (StatusCode::OK, "ok\n".to_owned()),
            None => stuck(),
        },
        "/readyz" => match ask(messages, Message::Readiness).await {
            Some(obstacles) if obstacles.is_empty() => (StatusCode::OK, "ok\n".to_owned()),
            Some(obstacles) => (StatusCode::SERVICE_UNAVAILABLE, obstacles.join("\n") + "\n"),
            None => stuck(),
        },
        _ => (
            StatusCode::NOT_FOUND,
            "there are /metrics, /healthz and /readyz\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
    );
    Ok(response)
}

fn stuck() -> (StatusCode, String) {
    (
        StatusCode::INTERNAL_SERVER_ERROR,
        "the agent does not answer\n".to_owned(),
    )
}

async fn ask<T>(
    messages: &Sender<Message>,
    question: impl FnOnce(oneshot::Sender<T>) -> Message,
) -> Option<T> {
    let (sender, reply) = oneshot::channel();
    messages.send(question(sender)).ok()?;
    timeout(PATIENCE, reply).await.ok()?.ok()
}
