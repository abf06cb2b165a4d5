use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_client::ExternalProcessorClient;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpHeaders, HttpTrailers, ProcessingRequest, processing_request, processing_response,
};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{ListValue, Struct, Value};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::jose::issuers::Issuers;
use crate::sidecar::check::Authorizer;
use crate::sidecar::check::mode::Mode;
use crate::sidecar::check::record::Recorder;
use crate::sidecar::check::respond::DenyDetail;
use crate::sidecar::fixtures::{Sent, checking, fill, grant};
use crate::sidecar::serve::health::{self, Readiness};
use crate::sidecar::serve::routes::{self, Limits};
use crate::sidecar::state::table::Table;
use crate::sidecar::streams as leash;
use crate::sidecar::streams::LeashArgs;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::spans::Spans;

const PATIENCE: Duration = Duration::from_secs(20);

/// A sidecar's listener with everything behind it, and an empty table.
struct Running {
    table: Arc<Table>,
    address: Address,
    stop: CancellationToken,
    tasks: JoinSet<Outcome>,
    metrics: Metrics,
    _directory: TempDir,
}

impl Running {
    async fn on(address: impl FnOnce(&Path) -> Address) -> Self {
        Self::trusting(Arc::default(), address).await
    }

    async fn trusting(issuers: Arc<Issuers>, address: impl FnOnce(&Path) -> Address) -> Self {
        let directory = TempDir::new().unwrap();
        let listener = Listener::bind(&address(directory.path()), 0o600, false)
            .await
            .unwrap();
        let (table, metrics, stop) = (
            Arc::new(Table::default()),
            Metrics::default(),
            CancellationToken::new(),
        );
        let reporter = health::reporter().await;
        let readiness = Readiness::new(Arc::clone(&table), Duration::from_millis(600));
        let checking = checking(Mode::Enforce, DenyDetail::Full);
        let recorder = Recorder::new(Spans::default(), &metrics);
        let cuts = leash::Record::register(Spans::default(), &metrics);
        let leash = LeashArgs { max_leashes: 2000 }.build(
            Arc::clone(&table),
            &checking,
            cuts,
            stop.clone(),
        );
        let authorizer =
            Authorizer::new(Arc::clone(&table), Arc::clone(&issuers), checking, recorder);
        let limits = Limits {
            max_check_bytes: 65_536,
            reflection: true,
        };
        let routes = routes::build(authorizer, leash, reporter.clone(), limits).unwrap();
        let address = listener.address().clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(issuers.run(stop.clone()));
        tasks.spawn(readiness.follow(reporter, stop.clone()));
        tasks.spawn(listener.serve(routes, stop.clone()));
        Self {
            table,
            address,
            stop,
            tasks,
            metrics,
            _directory: directory,
        }
    }

    async fn on_socket() -> Self {
        Self::on(|directory| Address::Unix(directory.join("run/authz.sock"))).await
    }

    async fn channel(&self) -> Channel {
        let uri = match &self.address {
            Address::Unix(_) => self.address.to_string(),
            Address::Tcp(tcp) => format!("http://{tcp}"),
        };
        Endpoint::from_shared(uri).unwrap().connect().await.unwrap()
    }

    async fn ask(&self, sent: &Sent) -> Result<String, tonic::Status> {
        let response = AuthorizationClient::new(self.channel().await)
            .check(sent.0.clone())
            .await?
            .into_inner();
        let status = response.status.unwrap();
        Ok(format!("{} {}", status.code, status.message))
    }

    fn raw(&self) -> &Path {
        match &self.address {
            Address::Unix(path) => path,
            Address::Tcp(_) => panic!("not a Unix socket"),
        }
    }

    /// Stops it and waits until every task has ended well.
    async fn end(mut self) {
        self.stop.cancel();
        while let Some(ended) = tokio::time::timeout(PATIENCE, self.tasks.join_next())
            .await
            .unwrap()
        {
            ended.unwrap().unwrap();
        }
        if let Address::Unix(path) = &self.address {
            assert!(!path.exists(), "the socket file is removed");
        }
    }
}

fn user_seven() -> Sent {
    Sent::http("GET", "/v1/users/7")
}

#[tokio::test]
async fn a_client_is_answered_over_a_unix_socket_before_and_after_the_first_snapshot() {
    let running = Running::on_socket().await;
    assert_eq!(running.ask(&user_seven()).await.unwrap(), "14 NOT_SYNCED");
    fill(&running.table, [grant("g")], 150);
    assert_eq!(running.ask(&user_seven()).await.unwrap(), "0 ");
    fill(&running.table, [], 150);
    assert_eq!(running.ask(&user_seven()).await.unwrap(), "7 NO_GRANT");
    running.end().await;
}

#[tokio::test]
async fn tcp_on_loopback_answers_too() {
    let running = Running::on(|_| Address::Tcp(([127, 0, 0, 1], 0).into())).await;
    fill(&running.table, [grant("g")], 150);
    assert_eq!(running.ask(&user_seven()).await.unwrap(), "0 ");
    running.end().await;
}

#[tokio::test]
async fn health_follows_the_table_for_those_who_ask_and_those_who_watch() {
    let running = Running::on_socket().await;
    let mut client = HealthClient::new(running.channel().await);
    for service in ["", "envoy.service.auth.v3.Authorization"] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let status = client.check(request).await.unwrap().into_inner().status;
        assert_eq!(status, ServingStatus::NotServing as i32, "{service:?}");
    }
    let mut watch = client
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut next = async || {
        tokio::time::timeout(PATIENCE, watch.message())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
            .status
    };
    assert_eq!(next().await, ServingStatus::NotServing as i32);
    fill(&running.table, [], 150);
    assert_eq!(next().await, ServingStatus::Serving as i32);
    assert_eq!(
        next().await,
        ServingStatus::NotServing as i32,
        "stale by now"
    );
    running.table.heard();
    assert_eq!(next().await, ServingStatus::Serving as i32);
    running.stop.cancel();
    assert_eq!(
        next().await,
        ServingStatus::NotServing as i32,
        "it is about to end"
    );
    drop(client);
    running.end().await;
}

#[tokio::test]
async fn an_oversized_check_is_an_error_and_the_next_one_is_answered() {
    let running = Running::on_socket().await;
    let big = user_seven().header("cookie", &"x".repeat(70_000));
    assert_eq!(
        running.ask(&big).await.unwrap_err().code(),
        tonic::Code::OutOfRange
    );
    assert_eq!(running.ask(&user_seven()).await.unwrap(), "14 NOT_SYNCED");
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_never_finished_is_given_up() {
    let running = Running::on_socket().await;
    let mut client = tonic::client::Grpc::new(running.channel().await);
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/envoy.service.auth.v3.Authorization/Check");
    let never = tokio_stream::pending::<CheckRequest>();
    let codec = tonic_prost::ProstCodec::<CheckRequest, CheckResponse>::default();
    let asked = client.client_streaming(tonic::Request::new(never), path, codec);
    let ended = tokio::time::timeout(2 * ANSWER_WITHIN, asked).await;
    assert!(ended.expect("the sidecar ends it").is_err());
    running.end().await;
}

#[tokio::test]
async fn garbage_on_the_socket_ends_that_connection_alone() {
    let running = Running::on_socket().await;
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 4096],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let mut socket = UnixStream::connect(running.raw()).await.unwrap();
        // It may already have hung up.
        socket.write_all(garbage).await.unwrap_or_default();
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "it hangs up: {garbage:?}");
    }
    assert_eq!(running.ask(&user_seven()).await.unwrap(), "14 NOT_SYNCED");
    running.end().await;
}

#[tokio::test]
async fn a_message_that_does_not_decode_is_an_error_and_never_an_allow() {
    let running = Running::on_socket().await;
    fill(&running.table, [grant("g")], 150);
    let mut grpc = tonic::client::Grpc::new(running.channel().await);
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/envoy.service.auth.v3.Authorization/Check");
    // The same tag as CheckRequest.attributes, filled with what is no message.
    let codec = tonic_prost::ProstCodec::<Vec<u8>, CheckRequest>::default();
    let answered = grpc
        .unary(tonic::Request::new(vec![0xff; 64]), path, codec)
        .await;
    assert_ne!(answered.unwrap_err().code(), tonic::Code::Ok);
    running.end().await;
}

#[tokio::test]
async fn a_check_whose_deadline_passes_is_given_up_and_counted() {
    // The issuer's keys are to come from a server that takes the connection and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let yaml = format!(
        "apiVersion: jitgate.dev/v1\nkind: Issuers\nissuers:\n  - issuer: https://idp.example\n    audiences: [a]\n    jwksUrl: http://{}/keys\n",
        silent.local_addr().unwrap()
    );
    let issuers = Issuers::parse(&yaml, Path::new("issuers.yaml")).unwrap();
    let running = Running::trusting(Arc::new(issuers), |directory| {
        Address::Unix(directory.join("s"))
    })
    .await;
    fill(&running.table, [grant("g")], 150);
    let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
    let token = [
        r#"{"alg":"ES256","kid":"k"}"#,
        r#"{"iss":"https://idp.example","sub":"a","aud":"a","exp":200}"#,
        "",
    ];
    let token = format!("{}.{}.{}", part(token[0]), part(token[1]), "A".repeat(86));
    let mut request = tonic::Request::new(
        user_seven()
            .header("authorization", &format!("Bearer {token}"))
            .0,
    );
    request
        .metadata_mut()
        .insert("grpc-timeout", "20m".parse().unwrap());
    let given_up = AuthorizationClient::new(running.channel().await)
        .check(request)
        .await
        .unwrap_err();
    assert_eq!(given_up.code(), tonic::Code::Cancelled, "{given_up}");
    let metrics = running.metrics.clone();
    running.end().await;
    let aborted = "jitgate_decisions_total{outcome=\"aborted\",reason=\"NONE\"} 1";
    assert!(metrics.render().contains(aborted), "{}", metrics.render());
}

#[tokio::test]
async fn reflection_lists_the_services_where_it_was_asked_for() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let running = Running::on_socket().await;
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(running.channel().await);
    let mut answers = client
        .server_reflection_info(tokio_stream::once(ask))
        .await
        .unwrap()
        .into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list")
    };
    assert!(
        list.service
            .iter()
            .any(|service| service.name == "envoy.service.auth.v3.Authorization")
    );
    running.end().await;
}

#[tokio::test]
async fn only_the_configured_mode_lets_anybody_in() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("deep/er/authz.sock");
    for mode in [0o600, 0o660, 0o666] {
        let listener = Listener::bind(&Address::Unix(path.clone()), mode, false)
            .await
            .unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            mode
        );
        drop(listener);
        assert!(!path.exists());
    }
}

#[tokio::test]
async fn a_live_process_keeps_its_socket_and_a_dead_ones_is_replaced() {
    let running = Running::on_socket().await;
    let refused = Listener::bind(&running.address, 0o600, false)
        .await
        .unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("another process is listening there"),
        "{refused}"
    );
    assert_eq!(
        running.ask(&user_seven()).await.unwrap(),
        "14 NOT_SYNCED",
        "it is not disturbed"
    );

    let directory = TempDir::new().unwrap();
    let path = directory.path().join("authz.sock");
    // As a killed process leaves it: the file is there, nobody listens.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let replaced = Listener::bind(&Address::Unix(path.clone()), 0o600, false)
        .await
        .unwrap();
    UnixStream::connect(&path).await.unwrap();
    drop(replaced);
    running.end().await;
}

/// What Envoy says when a stream opens that grant `g` lets pass.
fn opening() -> ProcessingRequest {
    let text = |value: &str| Value {
        kind: Some(Kind::StringValue(value.to_owned())),
    };
    let grants = Value {
        kind: Some(Kind::ListValue(ListValue {
            values: vec![text("g")],
        })),
    };
    let fields = [
        ("grants".to_owned(), grants),
        ("decision_id".to_owned(), text("01JD")),
    ]
    .into();
    let filter_metadata = [("envoy.filters.http.ext_authz".to_owned(), Struct { fields })].into();
    ProcessingRequest {
        metadata_context: Some(Metadata {
            filter_metadata,
            ..Metadata::default()
        }),
        request: Some(processing_request::Request::RequestHeaders(
            HttpHeaders::default(),
        )),
        ..ProcessingRequest::default()
    }
}

#[tokio::test]
async fn streams_are_held_over_the_wire_and_none_is_left_however_envoy_goes_away() {
    let running = Running::on_socket().await;
    fill(&running.table, [grant("g")], 150);
    let open = async || {
        let (says, outgoing) = tokio::sync::mpsc::channel(4);
        says.send(opening()).await.unwrap();
        let mut client = ExternalProcessorClient::new(running.channel().await);
        let mut hears = client
            .process(ReceiverStream::new(outgoing))
            .await
            .unwrap()
            .into_inner();
        let first = hears.message().await.unwrap().unwrap().response.unwrap();
        (
            says,
            hears,
            matches!(first, processing_response::Response::RequestHeaders(_)),
        )
    };
    let until = async |count: usize| {
        let counted = async {
            while running.table.leashes().len() != count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, counted).await.unwrap();
    };
    let (says, hears, held) = open().await;
    assert!(held && running.table.leashes().len() == 1);
    // Envoy resets the stream, and its connection is gone.
    drop((says, hears));
    until(0).await;
    let (_says, mut hears, held) = open().await;
    assert!(held);
    fill(&running.table, [], 150);
    let ended = hears.message().await.unwrap().unwrap().response.unwrap();
    let processing_response::Response::ImmediateResponse(ended) = ended else {
        panic!("{ended:?}")
    };
    assert_eq!(
        (
            ended.details.as_str(),
            running.table.leashes().take_closed()
        ),
        ("NO_GRANT", 1)
    );
    assert!(hears.message().await.unwrap().is_none());
    until(0).await;
    fill(&running.table, [grant("g")], 150);
    let (_says, mut hears, _) = open().await;
    running.stop.cancel();
    assert_eq!(
        hears.message().await.unwrap_err().code(),
        tonic::Code::Unavailable,
        "never an orderly end"
    );
    until(0).await;
    running.end().await;
}

#[tokio::test]
async fn as_many_streams_as_a_connection_has_may_open_and_end_at_once() {
    const MANY: usize = 1000;
    let running = Running::on_socket().await;
    fill(&running.table, [grant("g")], 150);
    let client = ExternalProcessorClient::new(running.channel().await);
    let mut streams = Vec::new();
    for _ in 0..MANY {
        let (says, outgoing) = tokio::sync::mpsc::channel(4);
        says.send(opening()).await.unwrap();
        let hears = client
            .clone()
            .process(ReceiverStream::new(outgoing))
            .await
            .unwrap()
            .into_inner();
        streams.push((says, hears));
    }
    for (_, hears) in &mut streams {
        hears.message().await.unwrap().unwrap();
    }
    assert_eq!(running.table.leashes().len(), MANY);
    let trailers = processing_request::Request::ResponseTrailers(HttpTrailers::default());
    for (says, _) in &streams {
        says.try_send(ProcessingRequest {
            request: Some(trailers.clone()),
            ..ProcessingRequest::default()
        })
        .unwrap();
    }
    for (_, hears) in &mut streams {
        hears.message().await.unwrap().unwrap();
        assert!(hears.message().await.unwrap().is_none());
    }
    assert_eq!(running.table.leashes().len(), 0);
    running.end().await;
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("precious");
    fs::write(&path, "data").unwrap();
    let refused = Listener::bind(&Address::Unix(path.clone()), 0o600, false)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("is no socket"), "{refused}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "data");
}

#[tokio::test]
async fn a_socket_that_is_no_longer_ours_is_not_removed() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("authz.sock");
    let first = Listener::bind(&Address::Unix(path.clone()), 0o600, false)
        .await
        .unwrap();
    fs::remove_file(&path).unwrap();
    let second = Listener::bind(&Address::Unix(path.clone()), 0o600, false)
        .await
        .unwrap();
    drop(first);
    assert!(path.exists());
    drop(second);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_taken_port_and_plaintext_to_the_network_are_refused_in_one_line() {
    let taken = Listener::bind(&Address::Tcp(([127, 0, 0, 1], 0).into()), 0o600, false)
        .await
        .unwrap();
    let refused = Listener::bind(taken.address(), 0o600, false)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("cannot be bound"), "{refused}");
    let open = Address::Tcp(([0, 0, 0, 0], 0).into());
    let refused = Listener::bind(&open, 0o600, false).await.unwrap_err();
    assert!(refused.to_string().contains("--insecure"), "{refused}");
    assert!(Listener::bind(&open, 0o600, true).await.is_ok());
}

#[test]
fn addresses_parse_or_say_what_they_should_be() {
    assert_eq!("unix:/run/x".parse(), Ok(Address::Unix("/run/x".into())));
    assert_eq!("unix:///run/x".parse(), Ok(Address::Unix("/run/x".into())));
    assert_eq!(
        "127.0.0.1:7420".parse(),
        Ok(Address::Tcp(([127, 0, 0, 1], 7420).into()))
    );
    for bad in [
        "",
        "unix:",
        "unix:run/x",
        "localhost:1",
        ":7420",
        "tcp://127.0.0.1:1",
        "/run/x",
    ] {
        assert!(bad.parse::<Address>().is_err(), "{bad}");
    }
    assert_eq!(mode("0660"), Ok(0o660));
    for bad in ["", "0999", "rw", "1777", "-1"] {
        assert!(mode(bad).is_err(), "{bad}");
    }
}
