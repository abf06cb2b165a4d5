//! `/.well-known/jwks.json`: the public keys, for whoever verifies tokens without a watch stream (RFC 7517).

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};

use super::TokenKeys;

const PATH: &str = "/.well-known/jwks.json";
const CONTENT_TYPE: &str = "application/jwk-set+json";

/// The route, for the HTTP listener.
pub(crate) fn route(keys: Arc<TokenKeys>) -> Router {
    Router::new().route(PATH, get(show)).with_state(keys)
}

/// A list may be kept for as long as a key is published before it signs: then it never lacks a key that signs.
async fn show(State(keys): State<Arc<TokenKeys>>) -> Response {
    let jwks = keys
        .current()
        .ring
        .0
        .iter()
        .map(|key| serde_json::from_str(&key.jwk))
        .collect::<Result<Vec<Value>, _>>();
    let Ok(jwks) = jwks else {
        return (
            StatusCode::INTERNAL_SERVER_ERROR,
            "a token key is damaged; see the log\n",
        )
            .into_response();
    };
    let cache = format!("public, max-age={}", keys.schedule().lead.as_secs());
    let headers = [
        (header::CONTENT_TYPE, CONTENT_TYPE.to_owned()),
        (header::CACHE_CONTROL, cache),
    ];
    (headers, json!({ "keys": jwks }).to_string()).into_response()
}
