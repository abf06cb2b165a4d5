//! One accepted connection, encrypted or not. It ends by itself when its client says nothing, and when its place is given
//! to another.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::peer::Peer;
use crate::admission::{Admission, Place, Source};

/// For a client to say [`OPENING`] bytes, so that silence holds no place.
const OPENING_PATIENCE: Duration = Duration::from_secs(5);
/// The preface of HTTP/2 (RFC 9113, section 3.4); any HTTP/1.1 request is longer.
const OPENING: usize = 24;

/// One accepted connection.
#[derive(Debug)]
pub struct Conn {
    io: Io,
    peer: Peer,
    opening: Option<Opening>,
    place: Place<Source>,
}

/// What a client must still say before its time is up, and where it is counted from then on.
#[derive(Debug)]
struct Opening {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
    open: Admission<Source>,
    party: Source,
}

#[derive(Debug)]
pub(super) enum Io {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Conn {
    /// `place` is held until the client has spoken; then one among the `open`.
    pub(super) fn new(io: Io, peer: Peer, place: Place<Source>, open: Admission<Source>) -> Self {
        let party = match &peer.spiffe {
            Some(identity) => Source::Identity(identity.clone()),
            None => place.party().clone(),
        };
        let opening = Opening {
            missing: OPENING,
            deadline: Box::pin(tokio::time::sleep(OPENING_PATIENCE)),
            open,
            party,
        };
        Self {
            io,
            peer,
            opening: Some(opening),
            place,
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// What was heard counts: towards the opening, and against idleness.
    fn hear(&mut self, bytes: usize) -> io::Result<()> {
        self.place.heard();
        let Some(opening) = &mut self.opening else {
            return Ok(());
        };
        opening.missing = opening.missing.saturating_sub(bytes);
        if opening.missing == 0 {
            let place = opening.open.enter(opening.party.clone());
            self.place = place.map_err(io::Error::other)?;
            self.place.heard();
            self.opening = None;
        }
        Ok(())
    }

    /// The error of a connection that has lost its place or said too little, if it must end now.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.place.poll_displaced(cx).is_ready() {
            return Poll::Ready(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the place was given to another",
            ));
        }
        match &mut self.opening {
            Some(opening) => opening
                .deadline
                .as_mut()
                .poll(cx)
                .map(|()| io::Error::new(io::ErrorKind::TimedOut, "the client says nothing")),
            None => Poll::Pending,
        }
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
        match polled {
            Poll::Pending => this.poll_end(cx).map(Err),
            Poll::Ready(Ok(())) => {
                Poll::Ready(this.hear(buf.filled().len().saturating_sub(before)))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }
}

impl AsyncWrite for Conn {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = match &mut this.io {
            Io::Tcp(io) => Pin::new(io).poll_write(cx, buf),
            Io::Unix(io) => Pin::new(io).poll_write(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_write(cx, buf),
        };
        // A client that reads nothing must not outlive its place, either.
        if polled.is_pending() {
            return this.poll_end(cx).map(Err);
        }
        polled
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
