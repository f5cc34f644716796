//! HTTP for operators: `/metrics` (Prometheus text), `/live` (the process runs), `/ready` (clients
//! are accepted, the server takes connections, and the control plane reaches it).
//!
//! Nobody has to log in here: connections are few, and none lives long without asking.

mod bounded;

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::bounded::Bounded;
use crate::catalog::control::{ControlError, ControlPool};
use crate::proxy::connect::{Server, connect};
use crate::telemetry::metrics::Metrics;

/// What the endpoints look at.
#[derive(Clone)]
pub struct Admin {
    /// Numbers.
    pub metrics: Arc<Metrics>,
    /// Draining: not ready.
    pub drain: CancellationToken,
    /// Control connections to the configured database.
    pub control: ControlPool,
    /// Where clients are relayed to, which may be a pooler.
    pub server: Server,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

/// Serves until `stop`.
///
/// # Errors
/// Of the listening socket.
pub async fn serve(listener: TcpListener, admin: Admin, stop: CancellationToken) -> io::Result<()> {
    let router = Router::new()
        .route("/live", get(async || "live\n"))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(admin);
    axum::serve(Bounded::new(listener), router).with_graceful_shutdown(async move { stop.cancelled().await }).await
}

async fn metrics(State(admin): State<Admin>) -> Response {
    ([("content-type", "text/plain; version=0.0.4")], admin.metrics.render()).into_response()
}

async fn ready(State(admin): State<Admin>) -> Response {
    if admin.drain.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
    }
    if let Err(error) = connect(&admin.server).await {
        let words = format!("the server {} takes no connections: {error}\n", admin.server.address);
        return (StatusCode::SERVICE_UNAVAILABLE, words).into_response();
    }
    let asked = async {
        let client = admin.control.get().await?;
        client.simple_query("SELECT 1").await?;
        Ok::<(), ControlError>(())
    };
    match asked.await {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("the control plane cannot reach the server: {reason}\n"))
                .into_response()
        }
    }
}
