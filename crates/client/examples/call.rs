//! Asks for access to the demo's service, calls it with a token of the grant, and gives the access back.
//!
//! ```console
//! $ make run                                       # in one terminal
//! $ source .jitgate/env                            # in another
//! $ cargo run -p jitgate-client --example call
//! ```
#![expect(clippy::print_stdout, reason = "it is a program")]

use std::error::Error;
use std::time::Duration;

use jitgate_client::{Ask, Client, Route, Tls, TokenLayer};
use tonic::body::Body;
use tower::{Service, ServiceBuilder, ServiceExt};

/// The workload that this program runs as, as its certificate says.
const WORKLOAD: &str = "spiffe://jitgate.local/ns/demo/sa/checkout";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // From JITGATE_SERVER, JITGATE_CA and JITGATE_TOKEN, which .jitgate/env sets.
    let jitgate = Client::from_env().await?;

    let ask = Ask::new("payments")
        .http(&["GET"], "/v1/users/{id}")
        .lasting(Duration::from_secs(60))
        .reason("to try it");
    let request = jitgate.ask(&ask).await?;
    let grant = jitgate.wait(&request, Duration::from_secs(600)).await?;
    println!("access to payments by grant {}", grant.id);

    // The service is behind an Envoy that asks for the workload's certificate.
    let identity = (".jitgate/client.pem".into(), ".jitgate/client.key".into());
    let tls = Tls::new(Some(".jitgate/ca.pem".into()), Some(identity))?;
    let payments = Route::new("https://localhost:10000", tls)?.lazy();

    // Every call through it carries a token, for which it waits up to two seconds.
    // A client that tonic has generated takes it, too: LedgerClient::new(payments).
    let tokens = jitgate.tokens_for(&grant.id, WORKLOAD);
    let mut payments = ServiceBuilder::new()
        .layer(TokenLayer::new(tokens, Duration::from_secs(2)))
        .service(payments);
    let call = http::Request::get("/v1/users/7").body(Body::empty())?;
    let answer = payments.ready().await?.call(call).await?;
    println!("GET /v1/users/7: {}", answer.status());

    jitgate.release(&grant.id, "done").await?;
    println!("grant {} released", grant.id);
    Ok(())
}
