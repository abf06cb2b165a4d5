//! Accepted connections, encrypted or not, as one type: what tonic and axum serve from.
//!
//! A handshake never holds up the next connection, and what fails ends here: a client without a right certificate, with
//! an ambiguous identity, or too slow never reaches a service.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::IncomingStream;
use futures_util::Stream;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::peer::{Peer, peer_spiffe};

/// For a client to finish its handshake.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(5);
/// For a client to say [`OPENING`] bytes, so that silence holds no seat.
const OPENING_PATIENCE: Duration = Duration::from_secs(10);
/// The preface of HTTP/2 (RFC 9113, section 3.4); any HTTP/1.1 request is longer.
const OPENING: usize = 24;
/// Handshakes under way at once; more connections wait in the backlog.
const HANDSHAKES: usize = 128;
/// Connections at once, unless the role says otherwise.
const CONNECTIONS: usize = 16_384;

/// A bound socket.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self::Unix(listener)
    }
}

/// Connections as they come.
#[derive(Debug)]
pub struct Incoming {
    listener: Listener,
    tls: Option<Arc<ServerConfig>>,
    handshakes: JoinSet<Option<Conn>>,
    seats: Arc<Semaphore>,
    /// Whether accepting failed the last time, which is reported once.
    failing: bool,
}

impl Incoming {
    /// Without encryption: loopback and Unix sockets.
    pub fn plain(listener: impl Into<Listener>) -> Self {
        Self::new(listener.into(), None)
    }

    /// With TLS.
    pub fn tls(listener: TcpListener, config: Arc<ServerConfig>) -> Self {
        Self::new(listener.into(), Some(config))
    }

    fn new(listener: Listener, tls: Option<Arc<ServerConfig>>) -> Self {
        Self {
            listener,
            tls,
            handshakes: JoinSet::new(),
            seats: Arc::new(Semaphore::new(CONNECTIONS)),
            failing: false,
        }
    }

    /// Serves at most this many connections at once.
    #[must_use]
    pub fn at_most(mut self, connections: usize) -> Self {
        self.seats = Arc::new(Semaphore::new(connections));
        self
    }

    /// The next connection that is fit to be served. May be cancelled without losing one.
    pub async fn next_conn(&mut self) -> Conn {
        loop {
            tokio::select! {
                Some(done) = self.handshakes.join_next() => {
                    match done {
                        Ok(Some(conn)) => return conn,
                        // Refused, and logged where that was found.
                        Ok(None) => {}
                        Err(error) => tracing::error!(%error, "a TLS handshake ended abnormally"),
                    }
                }
                accepted = accept(&self.listener, &self.seats), if self.handshakes.len() < HANDSHAKES => match accepted {
                    Ok(accepted) => {
                        self.failing = false;
                        let Some(conn) = self.admit(accepted) else { continue };
                        return conn;
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut self.failing, true) {
                            tracing::warn!(%error, "a listener cannot accept; trying on");
                        }
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }

    /// A plaintext connection as it is; a handshake begins for any other.
    fn admit(&mut self, accepted: Accepted) -> Option<Conn> {
        let Accepted { socket, seat } = accepted;
        match (socket, &self.tls) {
            (Socket::Tcp(socket, addr), Some(config)) => {
                let acceptor = TlsAcceptor::from(Arc::clone(config));
                self.handshakes
                    .spawn(handshake(acceptor, socket, addr, seat));
                None
            }
            (Socket::Tcp(socket, addr), None) => {
                let peer = Peer {
                    spiffe: None,
                    addr: Some(addr),
                    tls: false,
                };
                Some(Conn::new(Io::Tcp(socket), peer, seat))
            }
            (Socket::Unix(socket), _) => {
                let peer = Peer {
                    spiffe: None,
                    addr: None,
                    tls: false,
                };
                Some(Conn::new(Io::Unix(socket), peer, seat))
            }
        }
    }

    /// For `serve_with_incoming`.
    pub fn into_stream(self) -> impl Stream<Item = io::Result<Conn>> + Send {
        futures_util::stream::unfold(self, |mut incoming| async move {
            let conn = incoming.next_conn().await;
            Some((Ok(conn), incoming))
        })
    }
}

/// For `axum::serve`.
impl axum::serve::Listener for Incoming {
    type Io = Conn;
    type Addr = Peer;

    async fn accept(&mut self) -> (Conn, Peer) {
        let conn = self.next_conn().await;
        let peer = conn.peer.clone();
        (conn, peer)
    }

    fn local_addr(&self) -> io::Result<Peer> {
        let addr = match &self.listener {
            Listener::Tcp(listener) => Some(listener.local_addr()?),
            Listener::Unix(_) => None,
        };
        Ok(Peer {
            spiffe: None,
            addr,
            tls: self.tls.is_some(),
        })
    }
}

impl axum::extract::connect_info::Connected<IncomingStream<'_, Incoming>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Incoming>) -> Self {
        stream.remote_addr().clone()
    }
}

struct Accepted {
    socket: Socket,
    seat: OwnedSemaphorePermit,
}

enum Socket {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

async fn accept(listener: &Listener, seats: &Arc<Semaphore>) -> io::Result<Accepted> {
    let seat = Arc::clone(seats)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let socket = match listener {
        Listener::Tcp(listener) => {
            let (socket, addr) = listener.accept().await?;
            socket.set_nodelay(true)?;
            Socket::Tcp(socket, addr)
        }
        Listener::Unix(listener) => Socket::Unix(listener.accept().await?.0),
    };
    Ok(Accepted { socket, seat })
}

async fn handshake(
    acceptor: TlsAcceptor,
    socket: TcpStream,
    addr: SocketAddr,
    seat: OwnedSemaphorePermit,
) -> Option<Conn> {
    let stream = match tokio::time::timeout(HANDSHAKE_PATIENCE, acceptor.accept(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%addr, %error, "a TLS handshake failed");
            return None;
        }
        Err(_) => {
            tracing::debug!(%addr, "a TLS handshake took too long");
            return None;
        }
    };
    let leaf = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first());
    let spiffe = match leaf.map_or(Ok(None), |leaf| peer_spiffe(leaf)) {
        Ok(spiffe) => spiffe,
        Err(error) => {
            tracing::warn!(%addr, %error, "a peer was refused");
            return None;
        }
    };
    let peer = Peer {
        spiffe,
        addr: Some(addr),
        tls: true,
    };
    Some(Conn::new(Io::Tls(Box::new(stream)), peer, seat))
}

/// One accepted connection.
#[derive(Debug)]
pub struct Conn {
    io: Io,
    peer: Peer,
    opening: Option<Opening>,
    _seat: OwnedSemaphorePermit,
}

/// What a client must still say before its time is up.
#[derive(Debug)]
struct Opening {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
}

#[derive(Debug)]
enum Io {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Conn {
    fn new(io: Io, peer: Peer, seat: OwnedSemaphorePermit) -> Self {
        let opening = Opening {
            missing: OPENING,
            deadline: Box::pin(tokio::time::sleep(OPENING_PATIENCE)),
        };
        Self {
            io,
            peer,
            opening: Some(opening),
            _seat: seat,
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

/// Puts a [`Peer`] into the extensions of each request.
impl Connected for Conn {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = match &mut this.io {
            Io::Tcp(io) => Pin::new(io).poll_read(cx, buf),
            Io::Unix(io) => Pin::new(io).poll_read(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buf),
        };
        let Some(opening) = &mut this.opening else {
            return polled;
        };
        if polled.is_pending() {
            let overdue = || {
                Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the client says nothing",
                ))
            };
            return opening.deadline.as_mut().poll(cx).map(|()| overdue());
        }
        opening.missing = opening
            .missing
            .saturating_sub(buf.filled().len().saturating_sub(before));
        if opening.missing == 0 {
            this.opening = None;
        }
        polled
    }
}

impl AsyncWrite for Conn {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().io {
            Io::Tcp(io) => Pin::new(io).poll_write(cx, buf),
            Io::Unix(io) => Pin::new(io).poll_write(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().io {
            Io::Tcp(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Unix(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Tcp(io) => io.is_write_vectored(),
            Io::Unix(io) => io.is_write_vectored(),
            Io::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Tcp(io) => Pin::new(io).poll_flush(cx),
            Io::Unix(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Io::Unix(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
