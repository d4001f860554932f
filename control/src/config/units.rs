//! How durations, sizes, addresses and switches are written.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

/// `90ms`, `5s`, `2.5m`, `1h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, f64); 4] = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3_600.0)];
    let wrong =
        || format!("{text} is no duration; write a number and ms, s, m or h, like 90s or 5m");
    let seconds = measured(text, &UNITS).ok_or_else(wrong)?;
    if seconds > 31_536_000.0 {
        return Err(format!(
            "{text} is longer than a year; write a shorter duration"
        ));
    }
    Ok(Duration::from_millis(
        Duration::from_secs_f64(seconds)
            .as_micros()
            .div_ceil(1_000)
            .try_into()
            .map_err(|_| wrong())?,
    ))
}

/// A duration that is not zero.
pub(crate) fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("it must be longer than zero".to_owned()),
        some => Ok(some),
    }
}

/// A duration that is not zero, or `never`.
pub(crate) fn duration_or_never(text: &str) -> Result<Option<Duration>, String> {
    if text == "never" {
        Ok(None)
    } else {
        positive_duration(text)
            .map(Some)
            .map_err(|cause| format!("{cause}, or never"))
    }
}

/// `17GiB`, `256MiB`, `512Mi`, `40GB`, `0`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 13] = [
        ("KiB", 1_024.0),
        ("MiB", 1_048_576.0),
        ("GiB", 1_073_741_824.0),
        ("TiB", 1_099_511_627_776.0),
        ("Ki", 1_024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("KB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("TB", 1e12),
        ("B", 1.0),
    ];
    if text == "0" {
        return Ok(0);
    }
    let wrong =
        || format!("{text} is no size; write a number and KiB, MiB, GiB or TiB, like 17GiB");
    let bytes = measured(text, &UNITS).ok_or_else(wrong)?;
    if bytes > 1e15 {
        return Err(format!(
            "{text} is more than any machine has; check the unit"
        ));
    }
    format!("{bytes:.0}").parse().map_err(|_| wrong())
}

/// A size that is not zero.
pub(crate) fn positive_size(text: &str) -> Result<u64, String> {
    match size(text)? {
        0 => Err("it must be more than zero".to_owned()),
        some => Ok(some),
    }
}

/// A number and its unit, in the base unit.
fn measured(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let factor = units
        .iter()
        .find(|(name, _)| *name == unit.trim_start())
        .map(|(_, factor)| factor)?;
    let value: f64 = number.parse().ok()?;
    Some(value * factor)
}

/// A whole number of at least one.
pub(super) fn count(text: &str) -> Result<u64, String> {
    match text.parse::<u64>() {
        Ok(0) | Err(_) => Err(format!("{text} is no whole number of at least 1")),
        Ok(number) => Ok(number),
    }
}

/// A TCP port.
pub(super) fn port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(0) | Err(_) => Err(format!("{text} is no port; write a number from 1 to 65535")),
        Ok(port) => Ok(port),
    }
}

/// `true` or `false`.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(format!("{other} is neither true nor false")),
    }
}

/// `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080`.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let wrong =
        || format!("{text} is no address; write an IP address and a port, like 127.0.0.1:8080");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = self::port(port).map_err(|_| wrong())?;
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let ip = if bare == "localhost" {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    } else {
        bare.parse().map_err(|_| wrong())?
    };
    Ok(SocketAddr::new(ip, port))
}

/// The address in `http://127.0.0.1:8000`.
pub(super) fn url(text: &str) -> Result<SocketAddr, String> {
    let Some(rest) = text.strip_prefix("http://") else {
        return Err(format!(
            "{text} must start with http://; engines are reached without TLS, on a network of their own"
        ));
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains('/') {
        return Err(format!(
            "{text} has a path; write only http://HOST:PORT, paths of requests are passed on as they are"
        ));
    }
    address(authority).map_err(|_| format!("{text} is no engine address; write http://IP:PORT (a host name other than localhost is not looked up)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, milliseconds) in [
            ("90ms", 90),
            ("5s", 5_000),
            ("1.5s", 1_500),
            ("10m", 600_000),
            ("1h", 3_600_000),
            ("0s", 0),
            ("5 s", 5_000),
        ] {
            assert_eq!(
                duration(text),
                Ok(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
        for text in [
            "5", "s", "-5s", "5 sec", "1e3s", "", "5d", "900000h", "1.2.3s", ".",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(positive_duration("0ms").is_err());
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("1GiB", 1 << 30),
            ("17Gi", 17 << 30),
            ("1.5KiB", 1_536),
            ("0", 0),
            ("40GB", 40_000_000_000),
            ("7B", 7),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["40", "GiB", "-1GiB", "40gib", "1e9B", "99999999TiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses() {
        for (text, parsed) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("localhost:81", "127.0.0.1:81"),
            ("[::1]:82", "[::1]:82"),
            ("0.0.0.0:1", "0.0.0.0:1"),
        ] {
            assert_eq!(
                address(text),
                Ok(parsed.parse().expect("an address")),
                "{text}"
            );
        }
        for text in [
            "127.0.0.1",
            "gpu-node:80",
            "127.0.0.1:0",
            "127.0.0.1:70000",
            ":80",
        ] {
            assert!(address(text).is_err(), "{text}");
        }
        assert_eq!(
            url("http://localhost:8000/"),
            Ok("127.0.0.1:8000".parse().expect("an address"))
        );
        for text in [
            "https://127.0.0.1:1",
            "http://127.0.0.1:1/v1",
            "127.0.0.1:1",
            "http://vllm:8000",
        ] {
            assert!(url(text).is_err(), "{text}");
        }
    }
}
