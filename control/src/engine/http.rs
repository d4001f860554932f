//! HTTP to one engine: every call has a limit and every failure has a kind.

use std::{io, net::SocketAddr, time::Duration};

use serde_json::Value;

use super::reply;

/// Why a call brought no usable reply.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Nothing listens there.
    #[error("{address} refuses connections")]
    Refused {
        /// Where.
        address: SocketAddr,
    },
    /// No answer within the limit. The engine may still act on the call.
    #[error("{path} was not answered within {limit:?}")]
    TimedOut {
        /// Which call.
        path: &'static str,
        /// How long was waited.
        limit: Duration,
    },
    /// The connection broke. The engine may have acted on the call.
    #[error("the connection broke during {path}")]
    Broke {
        /// Which call.
        path: &'static str,
        /// What happened to it.
        #[source]
        source: reqwest::Error,
    },
    /// Another status than 200.
    #[error("{path} answered {status}: {words}")]
    Status {
        /// Which call.
        path: &'static str,
        /// The status.
        status: u16,
        /// The engine's own words.
        words: String,
    },
    /// 200, with a body that does not say what it has to.
    #[error("{path} answered 200 with a body that makes no sense: {words}")]
    Senseless {
        /// Which call.
        path: &'static str,
        /// The engine's own words.
        words: String,
    },
}

/// A reply of any status.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Body as text.
    pub body: String,
}

/// Longest body that is read from an engine, in bytes; `/openapi.json` and `/metrics` are the largest.
const BODY_LIMIT: usize = 8 << 20;

/// vLLM closes idle connections after 5 s; ours go first, so that no call meets a closing one.
const POOL_IDLE: Duration = Duration::from_secs(4);

/// The HTTP client of one engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Http {
    client: reqwest::Client,
    address: SocketAddr,
}

impl Http {
    /// A client for the engine at `address`, which connects within `connect`.
    pub fn new(address: SocketAddr, connect: Duration) -> Self {
        let client = reqwest::Client::builder()
            // A proxy of the environment must never stand between control and an engine.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(connect)
            .pool_idle_timeout(POOL_IDLE)
            .build()
            .expect("a client without TLS needs nothing that can be missing");
        Self { client, address }
    }

    /// The engine's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `GET path`, whatever the status. Asked once more when the connection breaks: a look changes nothing, and the
    /// pooled connection may be one of an engine that has been restarted since.
    pub async fn get(&self, path: &'static str, limit: Duration) -> Result<Reply, Fault> {
        match self
            .send(self.client.get(self.url(path)), path, limit)
            .await
        {
            Err(Fault::Broke { .. }) => {
                self.send(self.client.get(self.url(path)), path, limit)
                    .await
            }
            other => other,
        }
    }

    /// `POST path` with a query and without a body, whatever the status.
    pub async fn post(
        &self,
        path: &'static str,
        query: &str,
        limit: Duration,
    ) -> Result<Reply, Fault> {
        self.send(
            self.client.post(format!("{}{query}", self.url(path))),
            path,
            limit,
        )
        .await
    }

    /// `POST path` with a JSON body, whatever the status.
    pub async fn post_json(
        &self,
        path: &'static str,
        body: &Value,
        limit: Duration,
    ) -> Result<Reply, Fault> {
        self.send(self.client.post(self.url(path)).json(body), path, limit)
            .await
    }

    /// `POST path` with a JSON body; the response is handed over unread.
    pub async fn stream(
        &self,
        path: &'static str,
        body: &Value,
        limit: Duration,
    ) -> Result<reqwest::Response, Fault> {
        let request = self.client.post(self.url(path)).json(body).timeout(limit);
        request
            .send()
            .await
            .map_err(|error| self.fault(error, path, limit))
    }

    /// `GET path`, which has to answer 200.
    pub async fn get_ok(&self, path: &'static str, limit: Duration) -> Result<String, Fault> {
        self.get(path, limit).await?.ok(path)
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn send(
        &self,
        request: reqwest::RequestBuilder,
        path: &'static str,
        limit: Duration,
    ) -> Result<Reply, Fault> {
        let fault = |error| self.fault(error, path, limit);
        let mut response = request.timeout(limit).send().await.map_err(fault)?;
        let status = response.status().as_u16();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(fault)? {
            if bytes.len() + chunk.len() > BODY_LIMIT {
                return Err(Fault::Senseless {
                    path,
                    words: format!("more than {BODY_LIMIT} bytes"),
                });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Reply {
            status,
            body: String::from_utf8_lossy(&bytes).into_owned(),
        })
    }

    fn fault(&self, error: reqwest::Error, path: &'static str, limit: Duration) -> Fault {
        if error.is_timeout() {
            Fault::TimedOut { path, limit }
        } else if refused(&error) {
            Fault::Refused {
                address: self.address,
            }
        } else {
            Fault::Broke {
                path,
                source: error,
            }
        }
    }
}

impl Reply {
    /// The body of a 200.
    pub fn ok(self, path: &'static str) -> Result<String, Fault> {
        match self.status {
            200 => Ok(self.body),
            status => Err(Fault::Status {
                path,
                status,
                words: reply::words(&self.body),
            }),
        }
    }
}

fn refused(error: &reqwest::Error) -> bool {
    let mut next: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(cause) = next {
        if cause
            .downcast_ref::<io::Error>()
            .is_some_and(|io| io.kind() == io::ErrorKind::ConnectionRefused)
        {
            return true;
        }
        next = cause.source();
    }
    false
}
