//! An upstream that says what it was sent: the path in `x-seen-path`, and every `x-jitgate-*` header in the body.

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};

/// Serves on a free port until the runtime ends; the port.
pub async fn serve() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = Router::new().fallback(echo);
    tokio::task::spawn(async move { axum::serve(listener, app).await.unwrap() });
    port
}

async fn echo(request: Request) -> Response {
    let path = request
        .uri()
        .path_and_query()
        .map_or("", |path| path.as_str())
        .to_owned();
    let seen = request
        .headers()
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("x-"));
    let body: String = seen
        .map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    ([("x-seen-path", path)], body).into_response()
}
