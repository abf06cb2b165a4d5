//! A caller of the control plane's API, with its token on each call.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use jitgate_client::v1::access_service_client::AccessServiceClient;
use jitgate_client::v1::{
    AccessRequest, ApproveRequestRequest, GetGrantRequest, Grant, HttpRule,
    ListAccessRequestsRequest, ListGrantsRequest, RequestAccessRequest, RevokeGrantRequest, Scope,
    WriteOptions,
};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use super::world::World;

fn under(request_id: &str) -> Option<WriteOptions> {
    Some(WriteOptions {
        request_id: request_id.into(),
        ..WriteOptions::default()
    })
}

/// One caller's connection, with its token on each call.
#[derive(Clone)]
pub struct Caller {
    client: AccessServiceClient<Channel>,
    channel: Channel,
    token: MetadataValue<Ascii>,
}

impl Caller {
    pub fn connect(world: &World, sub: &str, groups: &[&str]) -> Self {
        let ca = Certificate::from_pem(std::fs::read(world.path("ca.pem")).unwrap());
        let tls = ClientTlsConfig::new()
            .ca_certificate(ca)
            .domain_name("localhost");
        let address = format!("https://localhost:{}", world.grpc_port);
        let endpoint = Endpoint::from_shared(address)
            .unwrap()
            .tls_config(tls)
            .unwrap();
        let endpoint = endpoint
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(10));
        let token = format!("Bearer {}", world.identities.token(sub, groups))
            .parse()
            .unwrap();
        let channel = endpoint.connect_lazy();
        Self {
            client: AccessServiceClient::new(channel.clone()),
            channel,
            token,
        }
    }

    /// For the clients of other services.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub fn with<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request
            .metadata_mut()
            .insert("authorization", self.token.clone());
        request
    }

    /// Asks for one gRPC method at `payments`.
    pub async fn ask(
        &mut self,
        request_id: &str,
        method: &str,
    ) -> Result<AccessRequest, tonic::Status> {
        let scope = Scope {
            service: "payments".into(),
            grpc: vec![method.into()],
            http: vec![],
        };
        let ask = RequestAccessRequest {
            scope: Some(scope),
            reason: "under load".into(),
            options: under(request_id),
            ..Default::default()
        };
        Ok(self
            .client
            .request_access(self.with(ask))
            .await?
            .into_inner())
    }

    /// Approves a request as it was read, under a request id of the reviewer's own.
    pub async fn approve(
        &mut self,
        request: &AccessRequest,
        request_id: &str,
    ) -> Result<AccessRequest, tonic::Status> {
        let approve = ApproveRequestRequest {
            id: request.id.clone(),
            request_digest: request.request_digest.clone(),
            reason: "under load".into(),
            options: under(request_id),
            ..Default::default()
        };
        Ok(self
            .client
            .approve_request(self.with(approve))
            .await?
            .into_inner())
    }

    /// Asks for everything at `payments`; the grant's id and when it ends.
    pub async fn ask_for_all(&mut self, request_id: &str, span: Duration) -> (String, SystemTime) {
        let http = vec![HttpRule {
            methods: vec!["GET".into(), "POST".into()],
            path: "/**".into(),
        }];
        let scope = Scope {
            service: "payments".into(),
            grpc: vec!["*".into()],
            http,
        };
        let duration = prost_types::Duration {
            seconds: span.as_secs().cast_signed(),
            nanos: span.subsec_nanos().cast_signed(),
        };
        let ask = RequestAccessRequest {
            scope: Some(scope),
            duration: Some(duration),
            reason: "to stream".into(),
            options: under(request_id),
            ..Default::default()
        };
        let id = self
            .client
            .request_access(self.with(ask))
            .await
            .unwrap()
            .into_inner()
            .grant;
        let get = GetGrantRequest { id: id.clone() };
        let grant = self
            .client
            .get_grant(self.with(get))
            .await
            .unwrap()
            .into_inner();
        let end = grant.expire_time.unwrap();
        let since = Duration::new(end.seconds.cast_unsigned(), end.nanos.cast_unsigned());
        (id, SystemTime::UNIX_EPOCH + since)
    }

    pub async fn revoke(&mut self, id: &str) -> Result<i64, tonic::Status> {
        let revoke = RevokeGrantRequest {
            id: id.into(),
            reason: "under load".into(),
            ..Default::default()
        };
        Ok(self
            .client
            .revoke_grant(self.with(revoke))
            .await?
            .into_inner()
            .enforcement
            .unwrap_or_default()
            .revision)
    }

    /// Every grant, ended ones too, and the revision of the last page.
    pub async fn grants(&mut self) -> (BTreeMap<String, Grant>, i64) {
        let mut all = BTreeMap::new();
        let mut page_token = String::new();
        loop {
            let list = ListGrantsRequest {
                page_size: 1000,
                page_token,
                include_ended: true,
                ..Default::default()
            };
            let page = self
                .client
                .list_grants(self.with(list))
                .await
                .unwrap()
                .into_inner();
            all.extend(
                page.grants
                    .into_iter()
                    .map(|grant| (grant.id.clone(), grant)),
            );
            if page.next_page_token.is_empty() {
                return (all, page.revision);
            }
            page_token = page.next_page_token;
        }
    }

    pub async fn requests(&mut self) -> Vec<AccessRequest> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let list = ListAccessRequestsRequest {
                page_size: 1000,
                page_token,
                ..Default::default()
            };
            let page = self
                .client
                .list_access_requests(self.with(list))
                .await
                .unwrap()
                .into_inner();
            all.extend(page.access_requests);
            if page.next_page_token.is_empty() {
                return all;
            }
            page_token = page.next_page_token;
        }
    }
}
