//! A client of streams of every kind through Envoy: it notes each byte, and when and how each stream ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{Method, Request, Version};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::caller::Caller;
use super::process::{http_get, wait_until};
use super::world::{Settings, World};
use super::{flows, raw_http};

/// Between two pieces of what a client sends.
const DRIP: Duration = Duration::from_millis(50);

/// A mesh with Envoy in front of an upstream whose answers last.
pub struct Fixture {
    pub world: World,
    one: TlsConnector,
    two: TlsConnector,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    SseHttp1,
    SseHttp2,
    WebsocketHttp1,
    WebsocketHttp2,
    GrpcServer,
    GrpcBoth,
    Upload,
    Duplex,
    /// Server-sent events on a route without a leash.
    Unleashed,
    /// No answer at all, on a route without a leash.
    Slow,
}

impl Kind {
    pub const ALL: [Self; 10] = [
        Self::SseHttp1,
        Self::SseHttp2,
        Self::WebsocketHttp1,
        Self::WebsocketHttp2,
        Self::GrpcServer,
        Self::GrpcBoth,
        Self::Upload,
        Self::Duplex,
        Self::Unleashed,
        Self::Slow,
    ];

    fn path(self) -> &'static str {
        match self {
            Self::SseHttp1 | Self::SseHttp2 => "/v1/events",
            Self::WebsocketHttp1 | Self::WebsocketHttp2 => "/v1/socket",
            Self::GrpcServer => "/pay.v1.Ledger/WatchBalance",
            Self::GrpcBoth => "/pay.v1.Ledger/WatchBoth",
            Self::Upload => "/v1/events/upload",
            Self::Duplex => "/v1/events/duplex",
            Self::Unleashed => "/v1/feed",
            Self::Slow => "/v1/slow",
        }
    }

    /// Whether the upstream answers before the end.
    pub fn answers(self) -> bool {
        !matches!(self, Self::Upload | Self::Slow)
    }
}

/// How a stream ended.
#[derive(Debug)]
pub struct Ended {
    pub at: SystemTime,
    pub instant: Instant,
    pub status: u16,
    pub headers: http::HeaderMap,
    pub grpc_status: Option<String>,
    pub bytes: Vec<u8>,
}

/// An open stream, or one about to be refused.
pub struct Live {
    io: Io,
    bytes: Vec<u8>,
    progress: Arc<AtomicU64>,
    status: u16,
    headers: http::HeaderMap,
}

enum Io {
    One(Box<TlsStream<TcpStream>>, bool),
    Two {
        response: Option<ResponseFuture>,
        body: Option<RecvStream>,
        send: Option<SendStream<Bytes>>,
    },
}

/// One HTTP/2 connection.
pub type Two = SendRequest<Bytes>;

impl Fixture {
    pub async fn start(settings: Settings) -> Self {
        let upstream = flows::serve().await;
        let world = tokio::task::block_in_place(|| World::with_envoy(settings, upstream));
        let one = raw_http::speaking(&world.client, &["http/1.1"]);
        let two = raw_http::speaking(&world.client, &["h2"]);
        Self { world, one, two }
    }

    /// A grant of everything for `sub`, known to the sidecar; its id and when it ends.
    pub async fn grant(&self, sub: &str, span: Duration) -> (String, SystemTime) {
        let name =
            format!("{sub}-{:?}", Instant::now()).replace(|c: char| !c.is_ascii_alphanumeric(), "");
        let name = &name[..name.len().min(60)];
        let (id, end) = Caller::connect(&self.world, sub, &["sre"])
            .ask_for_all(name, span)
            .await;
        self.until_known(&id);
        (id, end)
    }

    pub fn until_known(&self, id: &str) {
        let known = || {
            http_get(self.world.admin_port, "/grants?limit=100000")
                .is_some_and(|(_, text)| text.contains(id))
        };
        tokio::task::block_in_place(|| wait_until("the grant is known", known));
    }

    pub fn metric(&self, line: &str) -> Option<u64> {
        let (_, text) = http_get(self.world.admin_port, "/metrics")?;
        text.lines()
            .find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
    }

    /// By how much a stream may end before its grant: what the sidecar's estimate of the control plane's clock may be off
    /// by, as it says itself, and the rounding to a millisecond.
    pub fn early(&self) -> Duration {
        let (_, text) = http_get(self.world.admin_port, "/metrics").unwrap();
        let error = text.lines().find_map(|line| {
            line.strip_prefix("jitgate_clock_error_seconds ")?
                .parse()
                .ok()
        });
        Duration::from_secs_f64(error.unwrap()) + Duration::from_millis(20)
    }

    pub fn until_open(&self, count: u64) {
        let open = || self.metric("jitgate_leashes_open ") == Some(count);
        tokio::task::block_in_place(|| wait_until("as many streams are open", open));
    }

    async fn tls(&self, connector: &TlsConnector) -> TlsStream<TcpStream> {
        let socket = TcpStream::connect(("127.0.0.1", self.world.envoy_port))
            .await
            .unwrap();
        socket.set_nodelay(true).unwrap();
        connector
            .connect(ServerName::try_from("localhost").unwrap(), socket)
            .await
            .unwrap()
    }

    /// A new HTTP/2 connection; Envoy allows a hundred streams on it.
    pub async fn two(&self) -> Two {
        let (send, connection) = {
            // Many small frames that a busy machine has not read yet are no attack here.
            let mut builder = h2::client::Builder::new();
            builder.initial_connection_window_size(8 << 20);
            builder.handshake(self.tls(&self.two).await).await.unwrap()
        };
        tokio::task::spawn(connection);
        let mut ready = send.ready().await.unwrap();
        while !ready.is_extended_connect_protocol_enabled() {
            tokio::time::sleep(Duration::from_millis(1)).await;
            ready = ready.ready().await.unwrap();
        }
        ready
    }

    /// Opens a stream as `sub`.
    pub async fn open(&self, kind: Kind, sub: &str, headers: &[(&str, &str)]) -> Live {
        if matches!(kind, Kind::SseHttp1 | Kind::WebsocketHttp1) {
            return self.open_one(kind, sub, headers).await;
        }
        let mut connection = self.two().await;
        self.open_two(&mut connection, kind, sub, headers).await
    }

    async fn open_one(&self, kind: Kind, sub: &str, headers: &[(&str, &str)]) -> Live {
        let mut stream = self.tls(&self.one).await;
        let token = self.world.identities.token(sub, &["sre"]);
        let mut head = format!(
            "GET {} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n",
            kind.path()
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if kind == Kind::WebsocketHttp1 {
            head.push_str(
                "upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\n",
            );
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        while !seen.windows(4).any(|window| window == b"\r\n\r\n") {
            let mut byte = [0];
            assert_eq!(
                stream.read(&mut byte).await.unwrap(),
                1,
                "{}",
                String::from_utf8_lossy(&seen)
            );
            seen.push(byte[0]);
        }
        let text = String::from_utf8_lossy(&seen).into_owned();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        Live::new(
            Io::One(Box::new(stream), kind == Kind::WebsocketHttp1),
            status,
        )
    }

    /// Opens a stream on a connection.
    pub async fn open_two(
        &self,
        connection: &mut Two,
        kind: Kind,
        sub: &str,
        headers: &[(&str, &str)],
    ) -> Live {
        let sends = matches!(
            kind,
            Kind::WebsocketHttp2 | Kind::GrpcBoth | Kind::Upload | Kind::Duplex
        );
        let grpc = matches!(kind, Kind::GrpcServer | Kind::GrpcBoth);
        let method = if kind == Kind::WebsocketHttp2 {
            Method::CONNECT
        } else if sends || grpc {
            Method::POST
        } else {
            Method::GET
        };
        let token = self.world.identities.token(sub, &["sre"]);
        let mut request = Request::builder()
            .version(Version::HTTP_2)
            .method(method)
            .uri(format!("https://localhost{}", kind.path()))
            .header("authorization", format!("Bearer {token}"));
        if grpc {
            request = request
                .header("content-type", "application/grpc")
                .header("te", "trailers");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(()).unwrap();
        if kind == Kind::WebsocketHttp2 {
            request
                .extensions_mut()
                .insert(h2::ext::Protocol::from_static("websocket"));
        }
        self.send(connection, request, sends, kind.answers()).await
    }

    /// Sends a request and waits for its answer, if it is one that comes.
    pub async fn send(
        &self,
        connection: &mut Two,
        request: Request<()>,
        sends: bool,
        answers: bool,
    ) -> Live {
        let mut ready = connection.clone().ready().await.unwrap();
        let (response, mut send) = ready.send_request(request, !sends).unwrap();
        if sends {
            send.send_data(Bytes::from_static(b"first"), false).unwrap();
        }
        let send = sends.then_some(send);
        if !answers {
            return Live::new(
                Io::Two {
                    response: Some(response),
                    body: None,
                    send,
                },
                0,
            );
        }
        let (parts, body) = response.await.unwrap().into_parts();
        let mut live = Live::new(
            Io::Two {
                response: None,
                body: Some(body),
                send,
            },
            parts.status.as_u16(),
        );
        live.headers = parts.headers;
        live
    }
}

impl Live {
    fn new(io: Io, status: u16) -> Self {
        Self {
            io,
            bytes: Vec::new(),
            progress: Arc::default(),
            status,
            headers: http::HeaderMap::new(),
        }
    }

    pub fn status(&self) -> u16 {
        self.status
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// How many bytes have come, for whoever looks on.
    pub fn progress(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.progress)
    }

    /// Goes on until the stream ends, sending now and then where the kind of stream has the client send.
    pub async fn until_end(mut self) -> Ended {
        let mut grpc_status = None;
        loop {
            let more = match &mut self.io {
                Io::One(stream, sends) => read_one(stream, *sends).await,
                Io::Two {
                    response,
                    body,
                    send,
                } => match body {
                    None => {
                        let Some(response) = response.take() else {
                            break;
                        };
                        let Ok(answer) = answered(response, send).await else {
                            break;
                        };
                        let (parts, incoming) = answer.into_parts();
                        (self.status, self.headers) = (parts.status.as_u16(), parts.headers);
                        *body = Some(incoming);
                        continue;
                    }
                    Some(incoming) => {
                        let more = read_two(incoming, send).await;
                        if more.is_none() {
                            let trailers = incoming.trailers().await.ok().flatten();
                            let status = trailers.as_ref().and_then(|map| map.get("grpc-status"));
                            grpc_status = status.map(|status| status.to_str().unwrap().to_owned());
                        }
                        more
                    }
                },
            };
            let Some(more) = more else { break };
            self.bytes.extend_from_slice(&more);
            self.progress
                .fetch_add(more.len() as u64, Ordering::Relaxed);
        }
        let Self {
            bytes,
            status,
            headers,
            ..
        } = self;
        Ended {
            at: SystemTime::now(),
            instant: Instant::now(),
            status,
            headers,
            grpc_status,
            bytes,
        }
    }
}

async fn answered(
    mut response: ResponseFuture,
    send: &mut Option<SendStream<Bytes>>,
) -> Result<http::Response<RecvStream>, h2::Error> {
    loop {
        tokio::select! {
            answer = &mut response => return answer,
            () = tokio::time::sleep(DRIP) => drip(send),
        }
    }
}

fn drip(send: &mut Option<SendStream<Bytes>>) {
    if let Some(open) = send
        && open.send_data(Bytes::from_static(b"more"), false).is_err()
    {
        *send = None;
    }
}

async fn read_one(stream: &mut TlsStream<TcpStream>, sends: bool) -> Option<Vec<u8>> {
    let mut chunk = [0; 4096];
    loop {
        tokio::select! {
            read = stream.read(&mut chunk) => return match read {
                Ok(read @ 1..) => Some(chunk[..read].to_vec()),
                Ok(_) | Err(_) => None,
            },
            () = tokio::time::sleep(DRIP), if sends => drop(stream.write_all(b"more").await),
        }
    }
}

async fn read_two(body: &mut RecvStream, send: &mut Option<SendStream<Bytes>>) -> Option<Vec<u8>> {
    loop {
        tokio::select! {
            data = body.data() => {
                let data = data?.ok()?;
                drop(body.flow_control().release_capacity(data.len()));
                return Some(data.to_vec());
            }
            () = tokio::time::sleep(DRIP), if send.is_some() => drip(send),
        }
    }
}

impl Ended {
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// Fails unless the bytes are the numbers from 0 on without a gap; how many.
    pub fn assert_unbroken(&self) -> usize {
        let numbers = self
            .bytes
            .chunks_exact(8)
            .map(|eight| u64::from_be_bytes(eight.try_into().unwrap()));
        let count = numbers
            .enumerate()
            .map(|(n, found)| assert_eq!(n as u64, found, "a byte is lost"))
            .count();
        assert_eq!(self.bytes.len(), count * 8, "a number is cut");
        count
    }
}
