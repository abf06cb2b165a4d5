//! An HTTP/1.1 client that sends exactly the bytes it is given: no URL parser stands between a test and the proxy.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A client certificate and whom it trusts, as files.
#[derive(Debug, Clone)]
pub struct Credentials {
    pub ca: std::path::PathBuf,
    pub cert: std::path::PathBuf,
    pub key: std::path::PathBuf,
}

/// One connection to the proxy.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Answer {
    /// A header's value, or the empty text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// A TLS client that presents the certificate and speaks HTTP/1.1.
pub fn connector(credentials: &Credentials) -> TlsConnector {
    speaking(credentials, &[])
}

/// The same for the protocols named.
pub fn speaking(credentials: &Credentials, alpn: &[&str]) -> TlsConnector {
    let read = |path: &Path| {
        CertificateDer::pem_file_iter(path)
            .unwrap()
            .collect::<Result<Vec<_>, _>>()
            .unwrap()
    };
    let mut roots = rustls::RootCertStore::empty();
    for authority in read(&credentials.ca) {
        roots.add(authority).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            read(&credentials.cert),
            PrivateKeyDer::from_pem_file(&credentials.key).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

impl Connection {
    /// Connects to the proxy on this machine.
    pub async fn open(connector: &TlsConnector, port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let stream = connector
            .connect(ServerName::try_from("localhost").unwrap(), stream)
            .await?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
        })
    }

    /// Sends a request head without a body and reads the answer. `line` is the request line's target, byte for byte.
    pub async fn request(
        &mut self,
        method: &str,
        target: &[u8],
        headers: &[(&str, &str)],
    ) -> std::io::Result<Answer> {
        let mut head = [
            method.as_bytes(),
            b" ",
            target,
            b" HTTP/1.1\r\nhost: localhost\r\n",
        ]
        .concat();
        for (name, value) in headers {
            head.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        self.stream.write_all(&head).await?;
        self.stream.flush().await?;
        self.answer().await
    }

    async fn answer(&mut self) -> std::io::Result<Answer> {
        let end = loop {
            if let Some(end) = self
                .buffer
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
            {
                break end;
            }
            self.fill().await?;
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .and_then(|code| code.parse().ok());
        let split = |line: &str| {
            line.split_once(':')
                .map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned()))
        };
        let headers: HashMap<String, String> = lines.filter_map(split).collect();
        let body = if headers
            .get("transfer-encoding")
            .is_some_and(|value| value == "chunked")
        {
            self.chunks().await?
        } else {
            let length = headers
                .get("content-length")
                .and_then(|text| text.parse().ok())
                .unwrap_or(0);
            self.take(length).await?
        };
        let status =
            status.ok_or_else(|| std::io::Error::other(format!("no status in {head:?}")))?;
        Ok(Answer {
            status,
            headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }

    async fn chunks(&mut self) -> std::io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                    break end;
                }
                self.fill().await?;
            };
            let size = std::str::from_utf8(&self.buffer[..end])
                .ok()
                .and_then(|text| usize::from_str_radix(text, 16).ok());
            self.buffer.drain(..end + 2);
            let size = size.ok_or_else(|| std::io::Error::other("bad chunk size"))?;
            let chunk = self.take(size + 2).await?;
            if size == 0 {
                return Ok(body);
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }

    async fn take(&mut self, length: usize) -> std::io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.fill().await?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    async fn fill(&mut self) -> std::io::Result<()> {
        let mut chunk = [0; 8192];
        match self.stream.read(&mut chunk).await? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.buffer.extend_from_slice(&chunk[..read]);
                Ok(())
            }
        }
    }
}
