//! Connections as vLLM's server treats them: one that has been idle for five seconds is closed without a word, so a client that keeps it
//! may send its next request into nothing.

use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::sleep,
};

/// uvicorn's default.
const IDLE: Duration = Duration::from_secs(5);
/// After a failed accept, which a lack of file descriptors can cause.
const PAUSE: Duration = Duration::from_millis(20);

/// Serves connections until told to stop, then until the requests under way have ended.
pub(super) async fn accept(
    listener: TcpListener,
    router: Router,
    mut stopped: oneshot::Receiver<()>,
) {
    let graceful = GracefulShutdown::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _address)) => serve(stream, router.clone(), &graceful),
                Err(error) => {
                    eprintln!("ERROR: accept: {error}");
                    sleep(PAUSE).await;
                }
            },
            // An error means that the other end is gone: stop then, too.
            _ = &mut stopped => break,
        }
    }
    drop(listener);
    graceful.shutdown().await;
}

fn serve(stream: TcpStream, router: Router, graceful: &GracefulShutdown) {
    if let Err(error) = stream.set_nodelay(true) {
        eprintln!("ERROR: TCP_NODELAY: {error}");
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        // The client left, or was idle: what it asked for is dropped with the connection.
        let _ = connection.await;
    });
}
