//! Claims about TLS as it is served and dialled, with certificates made for the test.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsConnector;

use super::*;

/// An authority and a directory to put its files in.
struct Authority {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("ca.pem"),
            params.self_signed(&key).unwrap().pem(),
        )
        .unwrap();
        Self {
            dir,
            issuer: Issuer::new(params, key),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// Writes `<name>.pem` and `<name>.key`, valid for 127.0.0.1 and with these URI names.
    fn issue(&self, name: &str, uris: &[&str]) -> IdentityFiles {
        let files = IdentityFiles {
            cert: self.path(&format!("{name}.pem")),
            key: self.path(&format!("{name}.key")),
        };
        let (cert, key) = self.sign(uris);
        std::fs::write(&files.cert, cert.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    fn sign(&self, uris: &[&str]) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))];
        params.subject_alt_names.extend(
            uris.iter()
                .map(|uri| SanType::URI((*uri).try_into().unwrap())),
        );
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }
}

const PAYMENTS: &str = "spiffe://td.example/ns/shop/sa/payments";

async fn listening(config: Arc<ServerConfig>) -> (SocketAddr, Incoming) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (
        listener.local_addr().unwrap(),
        Incoming::tls(listener, config),
    )
}

/// What the client sees of one connection: a byte from the server, or an error.
async fn greet(address: SocketAddr, config: Arc<ClientConfig>) -> std::io::Result<u8> {
    let socket = TcpStream::connect(address).await?;
    let name = ServerName::IpAddress(address.ip().into());
    let mut stream = TlsConnector::from(config).connect(name, socket).await?;
    stream.read_u8().await
}

/// Serves the first fit connection with one byte, and tells whose it was.
async fn serve_one(incoming: &mut Incoming) -> Peer {
    let mut conn = incoming.next_conn().await;
    conn.write_u8(7).await.unwrap();
    conn.shutdown().await.unwrap();
    conn.peer().clone()
}

/// Runs client and server until the client is done; the peer if one was served.
async fn meet(
    address: SocketAddr,
    incoming: &mut Incoming,
    client: Arc<ClientConfig>,
) -> (std::io::Result<u8>, Option<Peer>) {
    let mut peer = None;
    let mut greeting = std::pin::pin!(greet(address, client));
    loop {
        tokio::select! {
            seen = &mut greeting => return (seen, peer),
            served = serve_one(incoming), if peer.is_none() => peer = Some(served),
        }
    }
}

#[tokio::test]
async fn the_peers_spiffe_id_is_extracted() {
    let authority = Authority::new();
    let server = server_config(
        authority.issue("server", &[]),
        ClientAuth::Required(authority.ca()),
        &[ALPN_H2],
    )
    .unwrap();
    let client =
        client_config(authority.ca(), Some(authority.issue("client", &[PAYMENTS]))).unwrap();
    let (address, mut incoming) = listening(server).await;
    let (seen, peer) = meet(address, &mut incoming, client).await;
    assert_eq!(seen.unwrap(), 7);
    let peer = peer.unwrap();
    assert_eq!(peer.spiffe.unwrap().as_str(), PAYMENTS);
    assert!(peer.tls && peer.addr.unwrap().ip().is_loopback());
}

#[tokio::test]
async fn a_client_of_another_authority_is_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = server_config(
        authority.issue("server", &[]),
        ClientAuth::Optional(authority.ca()),
        &[ALPN_H2],
    )
    .unwrap();
    let (address, mut incoming) = listening(server).await;
    let stranger = client_config(authority.ca(), Some(other.issue("client", &[PAYMENTS]))).unwrap();
    let (seen, peer) = meet(address, &mut incoming, stranger).await;
    assert!(seen.is_err() && peer.is_none());
    // Without a certificate it may come in, as nobody.
    let nobody = client_config(authority.ca(), None).unwrap();
    let (seen, peer) = meet(address, &mut incoming, nobody).await;
    assert_eq!((seen.unwrap(), peer.unwrap().spiffe), (7, None));
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused_where_one_is_required() {
    let authority = Authority::new();
    let server = server_config(
        authority.issue("server", &[]),
        ClientAuth::Required(authority.ca()),
        &[ALPN_H2],
    )
    .unwrap();
    let (address, mut incoming) = listening(server).await;
    let (seen, peer) = meet(
        address,
        &mut incoming,
        client_config(authority.ca(), None).unwrap(),
    )
    .await;
    assert!(seen.is_err() && peer.is_none());
}

#[tokio::test]
async fn a_server_of_another_authority_is_not_trusted() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server =
        server_config(authority.issue("server", &[]), ClientAuth::None, &[ALPN_H2]).unwrap();
    let (address, mut incoming) = listening(server).await;
    let (seen, _) = meet(
        address,
        &mut incoming,
        client_config(other.ca(), None).unwrap(),
    )
    .await;
    assert!(
        seen.unwrap_err()
            .to_string()
            .contains("invalid peer certificate")
    );
}

#[tokio::test]
async fn a_tls_1_2_client_is_refused() {
    let authority = Authority::new();
    let server =
        server_config(authority.issue("server", &[]), ClientAuth::None, &[ALPN_H2]).unwrap();
    let (address, mut incoming) = listening(server).await;
    let old = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS12])
        .unwrap()
        .with_root_certificates(material::roots(&authority.ca()).unwrap())
        .with_no_client_auth();
    let (seen, peer) = meet(address, &mut incoming, Arc::new(old)).await;
    assert!(seen.unwrap_err().to_string().contains("ProtocolVersion") && peer.is_none());
}

#[tokio::test]
async fn an_ambiguous_identity_is_refused_and_others_go_on() {
    let authority = Authority::new();
    let server = server_config(
        authority.issue("server", &[]),
        ClientAuth::Required(authority.ca()),
        &[ALPN_H2],
    )
    .unwrap();
    let (address, mut incoming) = listening(server).await;
    let two = authority.issue("two", &[PAYMENTS, "spiffe://td.example/ns/shop/sa/admin"]);
    let (seen, peer) = meet(
        address,
        &mut incoming,
        client_config(authority.ca(), Some(two)).unwrap(),
    )
    .await;
    assert!(seen.is_err() && peer.is_none());
    let one = authority.issue("one", &[PAYMENTS]);
    let (seen, _) = meet(
        address,
        &mut incoming,
        client_config(authority.ca(), Some(one)).unwrap(),
    )
    .await;
    assert_eq!(seen.unwrap(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_does_not_hold_up_the_next() {
    let authority = Authority::new();
    let server =
        server_config(authority.issue("server", &[]), ClientAuth::None, &[ALPN_H2]).unwrap();
    let (address, mut incoming) = listening(server).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let (seen, _) = meet(
        address,
        &mut incoming,
        client_config(authority.ca(), None).unwrap(),
    )
    .await;
    assert_eq!(seen.unwrap(), 7);
    // And the silent one is let go when its patience is over.
    let mut end = [0];
    let closed = tokio::select! {
        read = silent.read(&mut end) => read,
        _ = incoming.next_conn() => panic!("it never spoke"),
    };
    assert!(matches!(closed, Ok(0) | Err(_)));
}

#[tokio::test]
async fn a_rotated_certificate_and_authority_are_picked_up() {
    let authority = Authority::new();
    let files = authority.issue("server", &[]);
    let config = server_config(
        files.clone(),
        ClientAuth::Required(authority.ca()),
        &[ALPN_H2],
    )
    .unwrap();
    let (address, mut incoming) = listening(config).await;

    let next = Authority::new();
    let fresh = next.issue("server", &[]);
    for (from, to) in [
        (fresh.cert, files.cert),
        (fresh.key, files.key),
        (next.ca(), authority.ca()),
    ] {
        std::fs::rename(from, to).unwrap();
    }
    std::fs::copy(authority.ca(), next.ca()).unwrap();
    let client = client_config(next.ca(), Some(next.issue("client", &[PAYMENTS]))).unwrap();
    let (seen, _) = meet(address, &mut incoming, Arc::clone(&client)).await;
    assert!(seen.is_err(), "files are looked at once a second");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(2)).await;
    tokio::time::resume();
    let (seen, peer) = meet(address, &mut incoming, client).await;
    assert_eq!(
        (seen.unwrap(), peer.unwrap().spiffe.unwrap().as_str()),
        (7, PAYMENTS)
    );
}

#[tokio::test(start_paused = true)]
async fn a_rotation_that_cannot_be_used_leaves_the_old_in_force() {
    let authority = Authority::new();
    let files = authority.issue("server", &[]);
    let identity = LiveIdentity::load(files.clone(), provider()).unwrap();
    let before = rustls::client::ResolvesClientCert::resolve(&identity, &[], &[]).unwrap();
    // The new certificate is there, its key is not yet.
    let (cert, key) = authority.sign(&[PAYMENTS]);
    std::fs::write(&files.cert, cert.pem()).unwrap();
    tokio::time::advance(Duration::from_secs(2)).await;
    let during = rustls::client::ResolvesClientCert::resolve(&identity, &[], &[]).unwrap();
    assert_eq!(before.cert, during.cert);
    std::fs::write(&files.key, key.serialize_pem()).unwrap();
    tokio::time::advance(Duration::from_secs(2)).await;
    let after = rustls::client::ResolvesClientCert::resolve(&identity, &[], &[]).unwrap();
    assert_eq!(after.cert.first().unwrap().as_ref(), cert.der().as_ref());
}

#[test]
fn wrong_files_are_named_with_what_is_wrong() {
    let authority = Authority::new();
    let (good, other) = (authority.issue("good", &[]), authority.issue("other", &[]));
    std::fs::write(authority.path("junk.pem"), "junk").unwrap();
    let error = |cert: &Path, key: &Path| {
        let files = IdentityFiles {
            cert: cert.to_owned(),
            key: key.to_owned(),
        };
        format!(
            "{:#}",
            server_config(files, ClientAuth::None, &[ALPN_H2]).unwrap_err()
        )
    };
    assert!(error(&authority.path("absent.pem"), &good.key).contains("absent.pem: cannot be read"));
    assert!(
        error(&authority.path("junk.pem"), &good.key)
            .contains("junk.pem: holds no PEM certificate")
    );
    assert!(error(&good.cert, &good.cert).contains("good.pem: holds no PEM private key"));
    let mismatch = error(&good.cert, &other.key);
    assert!(
        mismatch.contains("other.key: is not the key of the certificate in")
            && mismatch.contains("good.pem"),
        "{mismatch}"
    );
    let error = client_config(authority.path("junk.pem"), None).unwrap_err();
    assert!(format!("{error:#}").contains("junk.pem"));
}

#[test]
fn one_uri_name_that_is_a_spiffe_id_and_nothing_else() {
    let authority = Authority::new();
    let of = |uris: &[&str]| peer_spiffe(authority.sign(uris).0.der());
    assert_eq!(of(&[]), Ok(None));
    assert_eq!(of(&[PAYMENTS]).unwrap().unwrap().as_str(), PAYMENTS);
    assert_eq!(of(&[PAYMENTS, PAYMENTS]), Err(PeerError::Several(2)));
    for wrong in [
        "https://td.example/a",
        "spiffe://td.example",
        "SPIFFE://td.example/a",
        "spiffe://TD/a",
        "spiffe://td/a/../b",
    ] {
        assert!(
            matches!(of(&[wrong]), Err(PeerError::NotSpiffe(..))),
            "{wrong}"
        );
    }
    assert!(matches!(
        of(&["user:iss|sub"]),
        Err(PeerError::NotWorkload(_))
    ));
    assert_eq!(
        own_spiffe(&authority.issue("me", &[PAYMENTS]))
            .unwrap()
            .unwrap()
            .as_str(),
        PAYMENTS
    );
}

proptest! {
    #[test]
    fn any_bytes_as_a_certificate_are_an_error_not_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(peer_spiffe(&bytes).is_err());
    }
}

#[tokio::test]
async fn plaintext_and_unix_connections_are_of_the_same_type() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut incoming = Incoming::plain(listener);
    let mut client = TcpStream::connect(address).await.unwrap();
    let peer = serve_one(&mut incoming).await;
    assert_eq!(
        (client.read_u8().await.unwrap(), peer.spiffe, peer.tls),
        (7, None, false)
    );

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut incoming = Incoming::plain(UnixListener::bind(&path).unwrap());
    let mut client = UnixStream::connect(&path).await.unwrap();
    let peer = serve_one(&mut incoming).await;
    assert_eq!(
        (client.read_u8().await.unwrap(), peer),
        (
            7,
            Peer {
                spiffe: None,
                addr: None,
                tls: false
            }
        )
    );
}

/// A connection from another address of this machine.
async fn connected_from(source: &str, address: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(source.parse().unwrap()).unwrap();
    socket.connect(address).await.unwrap()
}

/// Whether the server has given the connection up.
async fn is_ended(conn: &mut Conn) -> bool {
    let read = futures_util::FutureExt::now_or_never(conn.read_u8());
    read.is_some_and(|read| read.is_err())
}

#[tokio::test]
async fn beyond_the_bound_a_connection_that_said_nothing_makes_room_for_the_next() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut incoming = Incoming::plain(listener).at_most(1);
    let _silent = TcpStream::connect(address).await.unwrap();
    let mut first = incoming.next_conn().await;
    assert!(!is_ended(&mut first).await);
    let _next = TcpStream::connect(address).await.unwrap();
    let mut second = incoming.next_conn().await;
    assert!(is_ended(&mut first).await && !is_ended(&mut second).await);
}

#[tokio::test]
async fn a_greedy_address_takes_no_connection_from_a_modest_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut incoming = Incoming::plain(listener).at_most(8);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut clients = Vec::new();
    let mut open = Vec::new();
    for source in std::iter::repeat_n("127.0.0.2:0", 8).chain(["127.0.0.1:0", "127.0.0.1:0"]) {
        let mut client = connected_from(source, address).await;
        client.write_all(preface).await.unwrap();
        clients.push(client);
        let mut conn = incoming.next_conn().await;
        conn.read_exact(&mut [0; 24]).await.unwrap();
        open.push(conn);
    }
    let mut ended = Vec::new();
    for conn in &mut open {
        ended.push(is_ended(conn).await);
    }
    assert_eq!(ended.iter().filter(|ended| **ended).count(), 2, "{ended:?}");
    assert!(
        !ended[8] && !ended[9],
        "the modest one keeps both: {ended:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_handshake_waits_for_no_connection_that_never_begins_its_own() {
    // The clock stands still while this waits: nobody's patience ends.
    let (_going, gone) = std::sync::mpsc::channel::<()>();
    let _still = tokio::task::spawn_blocking(move || gone.recv());
    let authority = Authority::new();
    let server = authority.issue("server", &[]);
    let config = server_config(server, ClientAuth::None, &[ALPN_H2]).unwrap();
    let (address, mut incoming) = listening(config).await;
    let mut silent = Vec::new();
    let connecting = async {
        for _ in 0..1000 {
            silent.push(connected_from("127.0.0.2:0", address).await);
        }
    };
    tokio::select! {
        () = connecting => {}
        conn = incoming.next_conn() => panic!("{conn:?} has said nothing"),
    }
    let client = client_config(authority.ca(), None).unwrap();
    let (seen, _) = meet(address, &mut incoming, client).await;
    assert_eq!(seen.unwrap(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_speaks_loses_its_seat_and_one_that_has_spoken_may_be_silent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut incoming = Incoming::plain(listener).at_most(1);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut read = [0; 64];
    for said in [&preface[..0], &preface[..23]] {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(said).await.unwrap();
        let mut conn = incoming.next_conn().await;
        let mut heard = 0;
        let ended = loop {
            match conn.read(&mut read).await {
                Ok(count) => heard += count,
                Err(error) => break error.kind(),
            }
        };
        assert_eq!((heard, ended), (said.len(), std::io::ErrorKind::TimedOut));
    }
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(preface).await.unwrap();
    let mut conn = incoming.next_conn().await;
    conn.read_exact(&mut read[..preface.len()]).await.unwrap();
    let silence = tokio::time::timeout(Duration::from_secs(3600), conn.read(&mut read)).await;
    assert!(
        silence.is_err(),
        "an idle connection is the server's to judge"
    );
}

#[tokio::test]
async fn a_client_of_ours_speaks_to_no_tls_1_2_server() {
    let authority = Authority::new();
    let old = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(
            LiveIdentity::load(authority.issue("server", &[]), provider()).unwrap(),
        ));
    let (address, mut incoming) = listening(Arc::new(old)).await;
    let tls = client_config(authority.ca(), None).unwrap();
    let route = route(
        "--control-plane",
        &format!("https://{address}"),
        Some(tls),
        false,
    )
    .unwrap();
    tokio::select! {
        connected = route.connect() => assert!(connected.is_err()),
        _ = incoming.next_conn() => panic!("they agreed"),
    }
}

#[tokio::test]
async fn a_channel_reaches_a_tonic_server_over_tls() {
    let authority = Authority::new();
    let server = server_config(
        authority.issue("server", &[]),
        ClientAuth::Required(authority.ca()),
        &[ALPN_H2],
    )
    .unwrap();
    let (address, incoming) = listening(server).await;
    let (_, health) = tonic_health::server::health_reporter();
    let mut set = tokio::task::JoinSet::new();
    set.spawn(
        tonic::transport::Server::builder()
            .add_service(health)
            .serve_with_incoming(incoming.into_stream()),
    );
    let identity = authority.issue("client", &[PAYMENTS]);
    let tls = client_config(authority.ca(), Some(identity)).unwrap();
    let channel = route(
        "--control-plane",
        &format!("https://{address}"),
        Some(tls),
        false,
    )
    .unwrap()
    .lazy();
    let mut client = tonic_health::pb::health_client::HealthClient::new(channel);
    let answer = client
        .check(tonic_health::pb::HealthCheckRequest::default())
        .await
        .unwrap();
    assert_eq!(answer.into_inner().status, 1, "1 is SERVING");
}

#[tokio::test]
async fn plaintext_stays_on_the_machine() {
    for (address, local) in [
        ("127.0.0.1:1", true),
        ("[::1]:1", true),
        ("[::ffff:127.0.0.1]:1", true),
        ("0.0.0.0:1", false),
        ("10.0.0.1:1", false),
    ] {
        let address = address.parse().unwrap();
        assert_eq!(is_local(&address), local, "{address}");
        assert_eq!(allow_plaintext("--listen", &address, false).is_ok(), local);
        assert!(allow_plaintext("--listen", &address, true).is_ok());
    }
    let open = |url, insecure| {
        route("--server", url, None, insecure)
            .map(|_| ())
            .map_err(|error| format!("{error:#}"))
    };
    assert!(open("http://localhost:1", false).is_ok() && open("http://[::1]:1", false).is_ok());
    assert!(
        open("http://control.example:1", false)
            .unwrap_err()
            .contains("--insecure")
    );
    assert!(open("http://control.example:1", true).is_ok());
    assert!(
        open("https://control.example:1", false)
            .unwrap_err()
            .contains("--tls-ca")
    );
    assert!(
        open("ftp://x", false)
            .unwrap_err()
            .contains("--server ftp://x")
    );
    assert!(open("/only/a/path", false).is_err());
}
