//! `jitgate dev call`: a gRPC call through the demo's Envoy with the demo client's certificate, and what came back, decoded.

use std::collections::BTreeMap;

use http::uri::PathAndQuery;
use jitgate_client::credential::Bearer;
use jitgate_client::error::root_cause;
use jitgate_client::{Route, Tls};
use serde_json::{Value, json};
use tonic::client::Grpc;
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use super::super::cli::error::{CliError, Exit, code_name};
use super::super::cli::render::text::block;
use super::super::cli::render::{OutputArgs, Screen, TextStyle, View};
use super::super::cli::values::{self, Token};
use super::ports::Ports;
use super::state::StateDir;
use super::upstream::pay;

/// `jitgate dev call`.
#[derive(Debug, clap::Args)]
pub struct CallArgs {
    /// The method: /pay.v1.Ledger/GetBalance, /pay.v1.Ledger/Transfer or /pay.v1.Ledger/WatchBalance
    #[arg(long, env = "JITGATE_DEV_CALL_GRPC", value_name = "METHOD", default_value = "/pay.v1.Ledger/GetBalance",
          value_parser = method)]
    grpc: PathAndQuery,
    /// The account to ask for: main or savings
    #[arg(
        long,
        env = "JITGATE_DEV_CALL_ACCOUNT",
        value_name = "NAME",
        default_value = "main"
    )]
    account: String,
    /// The user's JWT; an empty one calls as the workload alone
    #[arg(long, env = "JITGATE_TOKEN", hide_env_values = true, value_parser = values::token)]
    token: Option<Token>,
    #[command(flatten)]
    output: OutputArgs,
}

fn method(text: &str) -> Result<PathAndQuery, String> {
    let form = || "must look like /pay.v1.Ledger/GetBalance".to_owned();
    crate::model::target::GrpcMethod::parse(text).map_err(|_| form())?;
    PathAndQuery::try_from(text).map_err(|_| form())
}

/// Calls. Exit code 1 when the answer is not OK.
///
/// # Errors
/// When no `jitgate dev` runs there, or Envoy does not answer.
pub(crate) async fn call(args: CallArgs, state: &StateDir) -> Result<Exit, CliError> {
    let CallArgs {
        grpc,
        account,
        token,
        output,
    } = args;
    let token = token.filter(|token| !token.is_empty());
    let channel = channel(state).await?;
    let bearer = token
        .map(|token| Bearer::token(token.reveal()))
        .transpose()?;
    let client = Grpc::new(InterceptedService::new(channel, bearer.unwrap_or_default()));
    let screen = output.screen();
    let answer = if grpc.path().ends_with("/Transfer") {
        let message = pay::TransferRequest {
            from: account,
            to: "savings".to_owned(),
            cents: 100,
        };
        stream(client, grpc, message, &screen).await?
    } else {
        stream(client, grpc, pay::GetBalanceRequest { account }, &screen).await?
    };
    screen.show_next(&answer)?;
    Ok(if answer.status.code() == Code::Ok {
        Exit::Done
    } else {
        Exit::Refused
    })
}

async fn channel(state: &StateDir) -> Result<Channel, CliError> {
    let port = Ports::saved_envoy(state)?;
    let own = (state.at("client.pem"), state.at("client.key"));
    let tls = Tls::new(Some(state.at("ca.pem")), Some(own)).map_err(|error| {
        CliError::new(error.to_string()).hint("run `jitgate dev` first, or name its --state-dir")
    })?;
    let route = Route::new(&format!("https://localhost:{port}"), tls)?;
    route.connect().await.map_err(|error| {
        CliError::new(format!(
            "no answer from Envoy at https://localhost:{port}: {}",
            root_cause(&error)
        ))
        .hint("is `jitgate dev` running, and with Envoy?")
    })
}

type Client = Grpc<InterceptedService<Channel, Bearer>>;

/// A unary answer is a stream of one.
async fn stream<M>(
    mut client: Client,
    path: PathAndQuery,
    message: M,
    screen: &Screen,
) -> Result<Answer, CliError>
where
    M: prost::Message + Send + Sync + 'static,
{
    if let Err(error) = client.ready().await {
        return Ok(Answer {
            headers: MetadataMap::new(),
            status: Status::unavailable(error.to_string()),
        });
    }
    let codec = tonic_prost::ProstCodec::<M, pay::Balance>::default();
    let (headers, mut balances, _) = match client
        .server_streaming(Request::new(message), path, codec)
        .await
    {
        Ok(response) => response.into_parts(),
        Err(status) => {
            return Ok(Answer {
                headers: status.metadata().clone(),
                status,
            });
        }
    };
    loop {
        match balances.message().await {
            Ok(Some(balance)) => screen.show_next(&balance)?,
            Ok(None) => {
                return Ok(Answer {
                    headers,
                    status: Status::ok(""),
                });
            }
            Err(status) => {
                let headers = if headers.is_empty() {
                    status.metadata().clone()
                } else {
                    headers
                };
                return Ok(Answer { headers, status });
            }
        }
    }
}

impl View for pay::Balance {
    fn json(&self) -> Value {
        json!({ "account": self.account, "cents": self.cents })
    }

    fn text(&self, _: &TextStyle) -> String {
        block(&[
            ("Account", self.account.clone()),
            ("Cents", self.cents.to_string()),
        ])
    }
}

/// How the call ended.
struct Answer {
    headers: MetadataMap,
    status: Status,
}

impl Answer {
    /// The headers that jitgate set, or that the upstream saw from it.
    fn ours(&self) -> BTreeMap<String, String> {
        let text = |entry| match entry {
            KeyAndValueRef::Ascii(name, value) => {
                Some((name.to_string(), value.to_str().ok()?.to_owned()))
            }
            KeyAndValueRef::Binary(..) => None,
        };
        let entries = self.headers.iter().filter_map(text);
        entries
            .filter(|(name, _)| name.trim_start_matches("seen-").starts_with("x-jitgate-"))
            .collect()
    }
}

impl View for Answer {
    fn json(&self) -> Value {
        let info = self.status.get_details_error_info();
        json!({
            "code": code_name(self.status.code()),
            "message": self.status.message(),
            "errorInfo": info.map(|info| json!({
                "reason": info.reason,
                "domain": info.domain,
                "metadata": info.metadata.into_iter().collect::<BTreeMap<_, _>>(),
            })),
            "headers": self.ours(),
        })
    }

    fn text(&self, _: &TextStyle) -> String {
        let mut fields = vec![(
            "Status".to_owned(),
            code_name(self.status.code()).to_owned(),
        )];
        fields.push(("Message".to_owned(), self.status.message().to_owned()));
        if let Some(info) = self.status.get_details_error_info() {
            fields.push(("ErrorInfo reason".to_owned(), info.reason));
            fields.push(("ErrorInfo domain".to_owned(), info.domain));
            let metadata: BTreeMap<_, _> = info.metadata.into_iter().collect();
            fields.extend(
                metadata
                    .into_iter()
                    .map(|(name, value)| (format!("  {name}"), value)),
            );
        }
        fields.extend(self.ours());
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone()))
            .collect();
        block(&fields)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;
    use crate::model::time::Timestamp;

    #[test]
    fn a_refusal_is_shown_with_its_decoded_error_info() {
        let metadata = HashMap::from([("service".to_owned(), "payments".to_owned())]);
        let details = ErrorDetails::with_error_info("NO_GRANT", "jitgate.dev", metadata);
        let status = Status::with_error_details(Code::PermissionDenied, "no grant", details);
        let mut headers = MetadataMap::new();
        headers.insert("x-jitgate-reason", "NO_GRANT".parse().unwrap());
        headers.insert("server", "envoy".parse().unwrap());
        let answer = Answer { headers, status };
        assert_eq!(answer.json()["errorInfo"]["reason"], "NO_GRANT");
        let golden = "\
Status:           PERMISSION_DENIED
Message:          no grant
ErrorInfo reason: NO_GRANT
ErrorInfo domain: jitgate.dev
  service:        payments
x-jitgate-reason: NO_GRANT
";
        assert_eq!(
            answer.text(&TextStyle {
                now: Timestamp::default(),
                width: None
            }),
            golden
        );
    }

    #[test]
    fn only_a_method_can_be_called() {
        assert!(method("/pay.v1.Ledger/GetBalance").is_ok());
        for bad in ["", "GetBalance", "/pay.v1.Ledger/*", "/a", "/a.B/C?d"] {
            assert!(method(bad).is_err(), "{bad:?}");
        }
    }
}
