//! Reads Envoy's CheckRequest, and is the only file that does. It borrows what a decision needs, drops the query string
//! and judges nothing: it never verifies a credential and never guesses what is missing.

use std::time::Duration;

use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use smallvec::SmallVec;

use crate::jose::identify::Presented;
use crate::model::call::{self, Dialect};
use crate::model::decision::{Denial, DenyReason};
use crate::model::identity::Service;
use crate::model::target::{Target, TargetError};
use crate::support::grpc_timeout;

/// Most headers read from one check; Envoy's own default bound on a request is 100.
const HEADERS_MAX: usize = 512;
/// The key in a route's `context_extensions` that names the protected service.
pub(crate) const SERVICE_KEY: &str = "jitgate_service";
/// The header that carries jitgate's own token.
pub(crate) const TOKEN_HEADER: &str = "x-jitgate-token";
/// What every header of ours begins with.
const OUR_PREFIX: &[u8] = b"x-jitgate-";

/// A check as far as it could be read: how to answer it always, what it calls when that is clear.
#[derive(Debug)]
pub struct Inbound<'a> {
    /// How the caller wants to be told.
    pub dialect: Dialect,
    /// Incoming headers whose name is ours; nobody but the sidecar may set them.
    pub ours: Vec<&'a str>,
    /// The trace that the request itself carries.
    pub trace: TraceFields<'a>,
    /// How long a gRPC caller waits, if it says so in a form that counts.
    pub grpc_timeout: Option<Duration>,
    /// What is called and by whom, or what is missing to tell.
    pub call: Result<Call<'a>, Denial>,
}

/// One call, borrowed from the check.
#[derive(Debug)]
pub struct Call<'a> {
    /// The protected service.
    pub service: &'a Service,
    /// The method, as Envoy gave it.
    pub method: &'a str,
    /// The path as Envoy gave it, without its query.
    pub path: &'a str,
    /// What is called, or why that is ambiguous.
    pub target: Result<Target<'a>, TargetError>,
    /// `source.principal`: empty without a client certificate.
    pub peer: &'a str,
    /// The bearer token.
    pub bearer: Presented<'a>,
    /// jitgate's own token.
    pub token: Presented<'a>,
}

/// Trace headers of W3C and Zipkin, as far as present.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TraceFields<'a> {
    /// `traceparent`.
    pub traceparent: Option<&'a str>,
    /// `b3`.
    pub b3: Option<&'a str>,
    /// `x-b3-traceid`.
    pub b3_trace: Option<&'a str>,
    /// `x-b3-spanid`.
    pub b3_span: Option<&'a str>,
    /// `x-b3-sampled`.
    pub b3_sampled: Option<&'a str>,
}

/// The services that this sidecar protects: one or more.
#[derive(Debug, Clone)]
pub struct Services {
    first: Service,
    others: Vec<Service>,
}

/// Reads a check. Total: what cannot be read ends in a denial.
pub(crate) fn read<'a>(check: &'a CheckRequest, services: &'a Services) -> Inbound<'a> {
    let attributes = check.attributes.as_ref();
    let http = attributes
        .and_then(|attributes| attributes.request.as_ref())
        .and_then(|request| request.http.as_ref());
    let fields = http.map(Fields::collect).unwrap_or_default();
    let dialect = fields.dialect();
    let call = match (attributes, http) {
        (Some(attributes), Some(http)) => read_call(attributes, http, &fields, services),
        _ => Err(bad(
            "the check describes no HTTP request: ext_authz must run as an HTTP filter",
        )),
    };
    let grpc_timeout = match fields.grpc_timeout.as_slice() {
        [one] => grpc_timeout::parse(one),
        _ => None,
    };
    Inbound {
        dialect,
        call,
        trace: fields.trace,
        grpc_timeout,
        ours: fields.ours,
    }
}

fn read_call<'a>(
    attributes: &'a AttributeContext,
    http: &'a HttpRequest,
    fields: &Fields<'a>,
    services: &'a Services,
) -> Result<Call<'a>, Denial> {
    if fields.count > HEADERS_MAX {
        return Err(bad(
            "the check carries more headers than any request should",
        ));
    }
    let target = call::read(fields.dialect(), &http.method, &http.path);
    if let Err(why @ (TargetError::NoMethod | TargetError::NoPath)) = target {
        return Err(why.into());
    }
    let service = services.pick(
        attributes
            .context_extensions
            .get(SERVICE_KEY)
            .map(String::as_str),
    )?;
    Ok(Call {
        service,
        method: &http.method,
        path: call::without_query(&http.path),
        target,
        peer: attributes
            .source
            .as_ref()
            .map_or("", |source| source.principal.as_str()),
        bearer: bearer(&fields.authorization),
        token: own_token(&fields.token),
    })
}

fn bad(detail: &'static str) -> Denial {
    Denial::new(DenyReason::BadCheck, detail)
}

impl Services {
    /// The configured services.
    ///
    /// # Errors
    /// When there is none.
    pub fn new(services: Vec<Service>) -> anyhow::Result<Self> {
        let mut services = services.into_iter();
        let Some(first) = services.next() else {
            anyhow::bail!("--service is missing: name at least one service to protect");
        };
        Ok(Self {
            first,
            others: services.collect(),
        })
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Service> {
        std::iter::once(&self.first).chain(&self.others)
    }

    fn pick(&self, named: Option<&str>) -> Result<&Service, Denial> {
        match named {
            None if self.others.is_empty() => Ok(&self.first),
            None => Err(bad(
                "the route names no jitgate_service and this sidecar protects several",
            )),
            Some(name) => self
                .iter()
                .find(|service| service.as_str() == name)
                .ok_or_else(|| {
                    bad("the route names a jitgate_service that this sidecar does not protect")
                }),
        }
    }
}

/// The headers that matter, found in one pass over either form that Envoy may send.
#[derive(Default)]
struct Fields<'a> {
    count: usize,
    content_type: SmallVec<[&'a [u8]; 1]>,
    authorization: SmallVec<[&'a [u8]; 1]>,
    token: SmallVec<[&'a [u8]; 1]>,
    grpc_timeout: SmallVec<[&'a [u8]; 1]>,
    trace: TraceFields<'a>,
    ours: Vec<&'a str>,
}

impl<'a> Fields<'a> {
    fn collect(http: &'a HttpRequest) -> Self {
        let mut fields = Self::default();
        let plain = http
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()));
        let raw = http
            .header_map
            .iter()
            .flat_map(|map| &map.headers)
            .map(|header| {
                let value = if header.raw_value.is_empty() {
                    header.value.as_bytes()
                } else {
                    &header.raw_value
                };
                (header.key.as_str(), value)
            });
        for (name, value) in plain.chain(raw).take(HEADERS_MAX + 1) {
            fields.take_in(name, value);
        }
        fields
    }

    fn take_in(&mut self, name: &'a str, value: &'a [u8]) {
        self.count += 1;
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        let text = || std::str::from_utf8(value).ok();
        if is_ours(name) {
            self.ours.push(name);
            if is(TOKEN_HEADER) {
                self.token.push(value);
            }
        } else if is("authorization") {
            self.authorization.push(value);
        } else if is("content-type") {
            self.content_type.push(value);
        } else if is("grpc-timeout") {
            self.grpc_timeout.push(value);
        } else if is("traceparent") {
            self.trace.traceparent = text();
        } else if is("b3") {
            self.trace.b3 = text();
        } else if is("x-b3-traceid") {
            self.trace.b3_trace = text();
        } else if is("x-b3-spanid") {
            self.trace.b3_span = text();
        } else if is("x-b3-sampled") {
            self.trace.b3_sampled = text();
        }
    }

    fn dialect(&self) -> Dialect {
        match self.content_type.as_slice() {
            [one] if *one == b"application/grpc" || one.starts_with(b"application/grpc+") => {
                Dialect::Grpc
            }
            _ => Dialect::Http,
        }
    }
}

/// `x-jitgate-…`, and its twins with underscores, which many servers cannot tell from it.
fn is_ours(name: &str) -> bool {
    let same = |(given, ours): (&u8, &u8)| {
        given.eq_ignore_ascii_case(ours) || (*given == b'_' && *ours == b'-')
    };
    name.as_bytes()
        .get(..OUR_PREFIX.len())
        .is_some_and(|start| start.iter().zip(OUR_PREFIX).all(same))
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// The token of `authorization: Bearer …`. Envoy joins repeated headers with a comma, and a bearer token has none.
fn bearer<'a>(values: &[&'a [u8]]) -> Presented<'a> {
    const EMPTY: &str = "the authorization header announces a bearer token and holds none";
    let mut parts = values
        .iter()
        .flat_map(|value| value.split(|b| *b == b','))
        .map(<[u8]>::trim_ascii);
    let is_bearer = |part: &[u8]| {
        let (scheme, rest) = part.split_at_checked(6).unwrap_or((part, b""));
        scheme.eq_ignore_ascii_case(b"bearer") && rest.first().is_none_or(u8::is_ascii_whitespace)
    };
    let Some(first) = parts.next() else {
        return Presented::Nothing;
    };
    let more = parts.clone().next().is_some();
    if !is_bearer(first) && !parts.any(is_bearer) {
        return Presented::Elsewhere;
    }
    if more {
        return Presented::Malformed(
            "the authorization header holds a bearer token and something else beside it",
        );
    }
    match std::str::from_utf8(first)
        .ok()
        .and_then(|text| text.get(6..))
        .map(str::trim_ascii)
    {
        Some(token) => Presented::token(token, EMPTY),
        None => Presented::Malformed(EMPTY),
    }
}

fn own_token<'a>(values: &[&'a [u8]]) -> Presented<'a> {
    const ONE: &str = "x-jitgate-token must hold exactly one token";
    match values {
        [] => Presented::Nothing,
        [one] => match std::str::from_utf8(one) {
            Ok(token) => Presented::token(token, ONE),
            Err(_) => Presented::Malformed(ONE),
        },
        _ => Presented::Malformed("x-jitgate-token was given more than once"),
    }
}

#[cfg(test)]
mod tests;
