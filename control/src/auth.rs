//! Who may use the HTTP API. Decisions over values: no request types, no I/O.
//!
//! Bound to loopback without a token, every local process may; what must stay out then are web pages in a local browser, which
//! come with an `Origin`, or with the Host of a name that was made to point here.

use std::net::{IpAddr, SocketAddr};

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A token is wanted and none was given.
    NoToken,
    /// It is another one.
    WrongToken,
    /// The request comes from a web page.
    Origin,
    /// The Host is none of ours.
    Host,
}

/// The rule of one listener.
#[derive(Clone, Debug)]
pub struct Guard {
    token: Option<String>,
    loopback: bool,
}

/// Headers that decide.
#[derive(Clone, Copy, Debug, Default)]
pub struct Credentials<'a> {
    /// `Authorization`.
    pub authorization: Option<&'a str>,
    /// `Origin` is there.
    pub origin: bool,
    /// `Host`.
    pub host: Option<&'a str>,
}

impl Guard {
    /// The rule of a listener at `address`. Beyond loopback it must have a token; the caller has checked that.
    pub fn new(address: SocketAddr, token: Option<String>) -> Self {
        Self {
            token,
            loopback: address.ip().is_loopback(),
        }
    }

    /// Whether a request may go on; `open`: it asks for something that everybody may have.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, open: bool, given: Credentials<'_>) -> Result<(), Refusal> {
        if self.loopback && given.origin {
            return Err(Refusal::Origin);
        }
        if self.loopback && !given.host.is_some_and(is_loopback_host) {
            return Err(Refusal::Host);
        }
        if open {
            return Ok(());
        }
        let Some(token) = &self.token else {
            // Without a token only loopback is left; beyond it nobody gets in.
            return if self.loopback {
                Ok(())
            } else {
                Err(Refusal::NoToken)
            };
        };
        match given
            .authorization
            .and_then(|value| value.strip_prefix("Bearer "))
        {
            Some(secret) if same_secret(secret.trim(), token) => Ok(()),
            Some(_) => Err(Refusal::WrongToken),
            None => Err(Refusal::NoToken),
        }
    }
}

/// Compares in a time that depends on the lengths only.
pub fn same_secret(given: &str, expected: &str) -> bool {
    let differences = given
        .bytes()
        .zip(expected.bytes())
        .fold(0, |found, (a, b)| found | (a ^ b));
    given.len() == expected.len() && differences == 0
}

fn is_loopback_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((name, port)) if port.is_empty() || port.starts_with(':') => name,
            Some(_) | None => return false,
        },
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        address: &str,
        token: Option<&str>,
        open: bool,
        given: Credentials<'_>,
        expected: Result<(), Refusal>,
    ) {
        let guard = Guard::new(address.parse().unwrap(), token.map(str::to_owned));
        assert_eq!(
            guard.check(open, given),
            expected,
            "{address} {token:?} {open} {given:?}"
        );
    }

    const LOCAL: Credentials<'_> = Credentials {
        authorization: None,
        origin: false,
        host: Some("127.0.0.1:8081"),
    };

    #[test]
    fn loopback_without_a_token_lets_local_programs_in_and_no_web_page() {
        let here = "127.0.0.1:8081";
        check(here, None, false, LOCAL, Ok(()));
        check(
            here,
            None,
            false,
            Credentials {
                origin: true,
                ..LOCAL
            },
            Err(Refusal::Origin),
        );
        for host in [
            "localhost",
            "LOCALHOST:8081",
            "[::1]:8081",
            "[::1]",
            "127.0.0.1",
        ] {
            check(
                here,
                None,
                false,
                Credentials {
                    host: Some(host),
                    ..LOCAL
                },
                Ok(()),
            );
        }
        for host in [
            "evil.example",
            "localhost.evil.example:8081",
            "127.0.0.1.evil.example",
            "[::1].evil",
            "10.0.0.1:8081",
            "",
        ] {
            check(
                here,
                None,
                false,
                Credentials {
                    host: Some(host),
                    ..LOCAL
                },
                Err(Refusal::Host),
            );
        }
        check(
            here,
            None,
            false,
            Credentials {
                host: None,
                ..LOCAL
            },
            Err(Refusal::Host),
        );
    }

    #[test]
    fn a_token_is_asked_for_where_there_is_one() {
        for address in ["127.0.0.1:8081", "0.0.0.0:8081"] {
            let with = |authorization| Credentials {
                authorization,
                ..LOCAL
            };
            check(
                address,
                Some("s3cret"),
                false,
                with(None),
                Err(Refusal::NoToken),
            );
            check(
                address,
                Some("s3cret"),
                false,
                with(Some("Bearer s3cres")),
                Err(Refusal::WrongToken),
            );
            check(
                address,
                Some("s3cret"),
                false,
                with(Some("Bearer s3cret1")),
                Err(Refusal::WrongToken),
            );
            check(
                address,
                Some("s3cret"),
                false,
                with(Some("Basic s3cret")),
                Err(Refusal::NoToken),
            );
            check(
                address,
                Some("s3cret"),
                false,
                with(Some("Bearer s3cret")),
                Ok(()),
            );
            check(address, Some("s3cret"), true, with(None), Ok(()));
        }
    }

    #[test]
    fn beyond_loopback_other_hosts_are_ordinary_and_a_token_is_a_must() {
        let far = Credentials {
            authorization: Some("Bearer s3cret"),
            origin: true,
            host: Some("control.example"),
        };
        check("0.0.0.0:8081", Some("s3cret"), false, far, Ok(()));
        check("0.0.0.0:8081", None, false, far, Err(Refusal::NoToken));
        check("0.0.0.0:8081", None, true, far, Ok(()));
    }
}
