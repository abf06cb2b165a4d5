//! An upstream whose answers last: numbered beats, echoes, uploads that never end, websockets; over HTTP/1.1 and HTTP/2 on
//! one port. It ends nothing by itself, unless a gRPC deadline tells it to.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

type Frames = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, hyper::Error>> + Send>>;

/// An answer's body.
pub struct Flow(Frames);

impl Body for Flow {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.0.as_mut().poll_next(cx)
    }
}

/// Serves on a free port until the runtime ends; the port.
pub async fn serve() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::task::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            socket.set_nodelay(true).unwrap();
            tokio::task::spawn(connection(socket));
        }
    });
    port
}

/// HTTP/2 begins with `PRI`, and no method of ours does.
async fn connection(socket: TcpStream) {
    let mut start = [0; 1];
    if socket.peek(&mut start).await.is_err() {
        return;
    }
    let io = TokioIo::new(socket);
    if start == *b"P" && !is_post(&io).await {
        drop(
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(io, service_fn(answer))
                .await,
        );
    } else {
        let serving =
            hyper::server::conn::http1::Builder::new().serve_connection(io, service_fn(answer));
        drop(serving.with_upgrades().await);
    }
}

async fn is_post(io: &TokioIo<TcpStream>) -> bool {
    let mut start = [0; 2];
    while io
        .inner()
        .peek(&mut start)
        .await
        .is_ok_and(|read| read == 1)
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    start == *b"PO"
}

async fn answer(request: Request<Incoming>) -> Result<Response<Flow>, Infallible> {
    let header = |name: &str| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let beat = header("x-beat-ms")
        .and_then(|ms| ms.parse().ok())
        .map(Duration::from_millis);
    let deadline = header("grpc-timeout");
    let ends_by_itself = request.uri().path().ends_with("UntilDeadline");
    let mut response = Response::new(Flow(Box::pin(stream::empty())));
    if let Some(deadline) = deadline
        .as_deref()
        .and_then(|text| HeaderValue::from_str(text).ok())
    {
        response
            .headers_mut()
            .insert("x-seen-grpc-timeout", deadline);
    }
    if header("content-type").as_deref() == Some("application/grpc") {
        response
            .headers_mut()
            .insert("content-type", HeaderValue::from_static("application/grpc"));
    }
    if header("upgrade").is_some() {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response
            .headers_mut()
            .insert("upgrade", HeaderValue::from_static("websocket"));
        response
            .headers_mut()
            .insert("connection", HeaderValue::from_static("upgrade"));
        tokio::task::spawn(echo_upgraded(request));
        return Ok(response);
    }
    let path = request.uri().path().to_owned();
    if path.ends_with("/slow") {
        std::future::pending::<()>().await;
    }
    if path.ends_with("/upload") {
        let mut body = request.into_body();
        while next_frame(&mut body).await.is_some() {}
        return Ok(response);
    }
    *response.body_mut() = if path.ends_with("/duplex") || path.ends_with("/WatchBoth") {
        Flow(Box::pin(stream::unfold(
            request.into_body(),
            |mut body| async move {
                let frame = next_frame(&mut body).await?;
                Some((frame, body))
            },
        )))
    } else {
        let until = deadline
            .filter(|_| ends_by_itself)
            .map(|text| millis(&text));
        Flow(beats(beat, until))
    };
    Ok(response)
}

fn millis(timeout: &str) -> Duration {
    Duration::from_millis(timeout.strip_suffix('m').unwrap().parse().unwrap())
}

async fn next_frame(body: &mut Incoming) -> Option<Result<Frame<Bytes>, hyper::Error>> {
    poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}

/// Numbers of eight bytes from 0 on, one at once and the rest each `every`; never again without one.
fn beats(every: Option<Duration>, until: Option<Duration>) -> Frames {
    let numbers = stream::unfold(0_u64, move |n| async move {
        match every {
            _ if n == 0 => {}
            Some(every) => tokio::time::sleep(every).await,
            None => std::future::pending().await,
        }
        Some((
            Ok(Frame::data(Bytes::copy_from_slice(&n.to_be_bytes()))),
            n + 1,
        ))
    });
    let Some(until) = until else {
        return Box::pin(numbers);
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("4"));
    let last = stream::once(async move { Ok(Frame::trailers(trailers)) });
    Box::pin(numbers.take_until(tokio::time::sleep(until)).chain(last))
}

async fn echo_upgraded(request: Request<Incoming>) {
    let Ok(upgraded) = hyper::upgrade::on(request).await else {
        return;
    };
    let mut io = TokioIo::new(upgraded);
    let mut chunk = [0; 4096];
    while let Ok(read @ 1..) = io.read(&mut chunk).await {
        if io.write_all(&chunk[..read]).await.is_err() {
            return;
        }
    }
}
