//! Accepted connections, encrypted or not, as one type: what tonic and axum serve from.
//!
//! A handshake never holds up the next connection, and what fails ends here: a client without a right certificate, with
//! an ambiguous identity, or too slow never reaches a service. Connections that are being opened have places of their
//! own beside the open ones, so that neither crowds out the other; both are shared by where connections come from.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::serve::IncomingStream;
use futures_util::Stream;
use rustix::io::Errno;
use rustls::ServerConfig;
use tokio::net::unix::UCred;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::conn::{Conn, Io};
use super::peer::{Peer, peer_spiffe};
use crate::admission::{Admission, AdmissionMetrics, First, Place, Rules, Source};
use crate::telemetry::pace::Pace;

/// For a client to say the first byte of its handshake. Until then it costs a socket and little else.
const SILENCE_PATIENCE: Duration = Duration::from_secs(3);
/// For the handshake from then on. When a whole fleet comes at once, this machine needs its time for all of them.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// Connections that are being opened at once: a fleet of ten thousand comes back in a few turns.
const OPENING: Rules = Rules {
    places: 8192,
    first: First::Oldest,
    spared: Duration::from_secs(3),
};
/// Open connections at once, unless the role says otherwise. A watch is never silent for this long.
const OPEN: Rules = Rules {
    places: 16_384,
    first: First::Idlest,
    spared: Duration::from_secs(10),
};

/// Of the lines about peers that are refused.
static PACE: LazyLock<Pace<Source>> = LazyLock::new(Pace::default);

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
    opening: Admission<Source>,
    open: Admission<Source>,
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
            opening: Admission::new(OPENING),
            open: Admission::new(OPEN),
            failing: false,
        }
    }

    /// Serves at most this many connections at once, and opens at most as many beside them.
    #[must_use]
    pub fn at_most(mut self, connections: usize) -> Self {
        let places = |rules: Rules| Rules {
            places: connections.min(rules.places),
            ..rules
        };
        self.opening = Admission::new(places(OPENING));
        self.open = Admission::new(places(OPEN));
        self
    }

    /// Shows under `name` how its places are shared.
    #[must_use]
    pub(crate) fn shown(self, metrics: &AdmissionMetrics, name: &str) -> Self {
        metrics.show(format!("{name} opening"), &self.opening);
        metrics.show(format!("{name} open"), &self.open);
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
                accepted = accept(&self.listener) => match accepted {
                    Ok((socket, source)) => {
                        self.failing = false;
                        let Ok(place) = self.opening.enter(source) else { continue };
                        let Some(conn) = self.admit(socket, place) else { continue };
                        return conn;
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut self.failing, true) {
                            tracing::warn!(%error, "a listener cannot accept; trying on");
                        }
                        // Whoever has the most sockets open makes room for one more.
                        if is_want_of_files(&error) && !self.opening.shed() {
                            self.open.shed();
                        }
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                },
            }
        }
    }

    /// A plaintext connection as it is; a handshake begins for any other.
    fn admit(&mut self, socket: Socket, place: Place<Source>) -> Option<Conn> {
        let plain = |addr| Peer {
            spiffe: None,
            addr,
            tls: false,
        };
        let open = self.open.clone();
        match (socket, &self.tls) {
            (Socket::Tcp(socket, addr), Some(config)) => {
                let acceptor = TlsAcceptor::from(Arc::clone(config));
                self.handshakes
                    .spawn(handshake(acceptor, socket, addr, place, open));
                None
            }
            (Socket::Tcp(socket, addr), None) => {
                Some(Conn::new(Io::Tcp(socket), plain(Some(addr)), place, open))
            }
            (Socket::Unix(socket), _) => {
                Some(Conn::new(Io::Unix(socket), plain(None), place, open))
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
        let peer = conn.peer().clone();
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

enum Socket {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// Whether this process, or the machine, has as many files open as it may.
pub(crate) fn is_want_of_files(error: &io::Error) -> bool {
    let [mine, everybodys] = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error
        .raw_os_error()
        .is_some_and(|code| code == mine || code == everybodys)
}

async fn accept(listener: &Listener) -> io::Result<(Socket, Source)> {
    match listener {
        Listener::Tcp(listener) => {
            let (socket, addr) = listener.accept().await?;
            // A client that is gone already is found out when it is read from.
            drop(socket.set_nodelay(true));
            Ok((Socket::Tcp(socket, addr), addr.into()))
        }
        Listener::Unix(listener) => {
            let (socket, _) = listener.accept().await?;
            let peer = socket.peer_cred().ok();
            let source = Source::Process {
                uid: peer.as_ref().map_or(u32::MAX, UCred::uid),
                pid: peer.as_ref().and_then(UCred::pid).unwrap_or(0),
            };
            Ok((Socket::Unix(socket), source))
        }
    }
}

async fn handshake(
    acceptor: TlsAcceptor,
    socket: TcpStream,
    addr: SocketAddr,
    place: Place<Source>,
    open: Admission<Source>,
) -> Option<Conn> {
    let met = tokio::select! {
        met = shake_hands(&acceptor, socket, &place) => met,
        () = place.displaced() => Err(io::Error::other("its place was given to another")),
    };
    let stream = match met {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%addr, %error, "a TLS handshake failed");
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
            if let Some(left_out) = PACE.admit(&Source::from(addr)) {
                tracing::warn!(%addr, %error, left_out, "a peer was refused");
            }
            return None;
        }
    };
    let peer = Peer {
        spiffe,
        addr: Some(addr),
        tls: true,
    };
    Some(Conn::new(Io::Tls(Box::new(stream)), peer, place, open))
}

async fn shake_hands(
    acceptor: &TlsAcceptor,
    socket: TcpStream,
    place: &Place<Source>,
) -> io::Result<TlsStream<TcpStream>> {
    timeout(SILENCE_PATIENCE, socket.readable()).await??;
    place.heard();
    timeout(HANDSHAKE_PATIENCE, acceptor.accept(socket)).await?
}
