//! The plugin configuration: JSON beside the module in Envoy's configuration, parsed once. An error names the field.

use serde_json::{Map, Value};

use crate::time::Millis;

/// Longest sum of control's cluster name and authority, so that both lengths of the serialised service fit in one byte.
const LONGEST_SERVICE_NAMES: usize = 120;

/// What is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON, or not an object.
    #[error("the plugin configuration is not a JSON object")]
    NotAnObject,
    /// A field that does not exist.
    #[error("unknown field `{0}`")]
    Unknown(String),
    /// A field without which the filter cannot work.
    #[error("`{0}` is missing")]
    Missing(String),
    /// A value of the wrong kind or range.
    #[error("`{field}` is not {expected}")]
    Invalid {
        /// Path of the field.
        field: String,
        /// What it has to be.
        expected: &'static str,
    },
}

/// Who strips the prefix and names the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// The filter: `:path` is stripped and `x-greenthread-cluster` names the cluster.
    Filter,
    /// The route of the model: the filter writes no header.
    Route,
}

/// How control is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Envoy cluster of control's gRPC service.
    pub cluster: String,
    /// `:authority` of the stream; the cluster's name when absent.
    pub authority: Option<String>,
    /// Bearer token.
    pub token: Option<String>,
}

/// Limits of held requests of one gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldLimits {
    /// Requests.
    pub limit: u64,
    /// Bytes.
    pub bytes: u64,
    /// Most bytes that Envoy buffers of one held request.
    pub body_buffer: u64,
    /// How long a process that never had a table holds requests of unknown paths.
    pub start: Millis,
}

/// The validated configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How control is reached.
    pub control: Control,
    /// Name of this Envoy, for people.
    pub gateway: String,
    /// Digest of the running module; empty when unknown.
    pub module_sha256: String,
    /// Who strips the prefix.
    pub rewrite: Rewrite,
    /// Answer `/v1/models`, `/health`, `/liveness`, `/readiness` at the root.
    pub root: bool,
    /// Host names (lower case, no port) that the filter is for; empty: all.
    pub hosts: Vec<String>,
    /// Limits of held requests.
    pub hold: HoldLimits,
}

impl Config {
    /// Parses and checks.
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        let value: Value = serde_json::from_slice(json).map_err(|_| ConfigError::NotAnObject)?;
        let mut fields = Fields::new("", Some(value))?;
        let config = Self {
            control: Control::parse(fields.take("control"))?,
            gateway: fields.string("gateway")?.unwrap_or_default(),
            module_sha256: fields.string("module_sha256")?.unwrap_or_default(),
            rewrite: match fields.string("rewrite")?.as_deref() {
                None | Some("filter") => Rewrite::Filter,
                Some("route") => Rewrite::Route,
                Some(_) => return Err(fields.invalid("rewrite", "\"filter\" or \"route\"")),
            },
            root: fields.boolean("root")?.unwrap_or(false),
            hosts: fields
                .strings("hosts")?
                .iter()
                .map(|host| host.to_ascii_lowercase())
                .collect(),
            hold: HoldLimits::parse(fields.take("hold"))?,
        };
        fields.end()?;
        Ok(config)
    }

    /// The serialised `GrpcService` that names control: `envoy_grpc { cluster_name, authority }`. Never a bare name: Envoy
    /// first tries to read the string as this message, and a name that happens to parse aborts the process.
    pub fn grpc_service(&self) -> String {
        let mut inner = Vec::new();
        append_field(&mut inner, 0x0a, self.control.cluster.as_bytes());
        if let Some(authority) = &self.control.authority {
            append_field(&mut inner, 0x12, authority.as_bytes());
        }
        let mut service = Vec::new();
        append_field(&mut service, 0x0a, &inner);
        // Lossless: names are ASCII and lengths below 0x80, both checked when the configuration was parsed.
        String::from_utf8(service).unwrap_or_default()
    }
}

fn append_field(message: &mut Vec<u8>, tag: u8, value: &[u8]) {
    message.push(tag);
    message.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
    message.extend_from_slice(value);
}

impl Control {
    fn parse(value: Option<Value>) -> Result<Self, ConfigError> {
        let mut fields = Fields::new("control", value)?;
        let cluster = fields
            .string("cluster")?
            .ok_or(ConfigError::Missing("control.cluster".to_owned()))?;
        let authority = fields.string("authority")?;
        let token = fields.string("token")?;
        let length = cluster
            .len()
            .saturating_add(authority.as_ref().map_or(0, String::len));
        if cluster.is_empty() || !cluster.is_ascii() || length > LONGEST_SERVICE_NAMES {
            return Err(fields.invalid(
                "cluster",
                "an ASCII name (with the authority at most 120 bytes)",
            ));
        }
        if authority
            .as_ref()
            .is_some_and(|authority| authority.is_empty() || !authority.is_ascii())
        {
            return Err(fields.invalid("authority", "an ASCII name"));
        }
        if token.as_ref().is_some_and(|token| {
            token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic())
        }) {
            return Err(fields.invalid("token", "printable ASCII without spaces"));
        }
        fields.end()?;
        Ok(Self {
            cluster,
            authority,
            token,
        })
    }
}

impl HoldLimits {
    fn parse(value: Option<Value>) -> Result<Self, ConfigError> {
        let mut fields = Fields::new("hold", Some(value.unwrap_or(Value::Object(Map::new()))))?;
        let limits = Self {
            limit: fields.number("limit")?.unwrap_or(10_000),
            bytes: fields.number("bytes")?.unwrap_or(256 << 20),
            body_buffer: fields.number("body_buffer")?.unwrap_or(1 << 20),
            start: Millis(fields.number("start_ms")?.unwrap_or(2_000)),
        };
        fields.end()?;
        Ok(limits)
    }
}

/// The fields of one object that were not read yet.
struct Fields {
    path: &'static str,
    left: Map<String, Value>,
}

impl Fields {
    fn new(path: &'static str, value: Option<Value>) -> Result<Self, ConfigError> {
        match value {
            Some(Value::Object(left)) => Ok(Self { path, left }),
            None => Err(ConfigError::Missing(path.to_owned())),
            Some(_) if path.is_empty() => Err(ConfigError::NotAnObject),
            Some(_) => Err(ConfigError::Invalid {
                field: path.to_owned(),
                expected: "an object",
            }),
        }
    }

    fn field(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    fn invalid(&self, name: &str, expected: &'static str) -> ConfigError {
        ConfigError::Invalid {
            field: self.field(name),
            expected,
        }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name).filter(|value| !value.is_null())
    }

    fn string(&mut self, name: &str) -> Result<Option<String>, ConfigError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.invalid(name, "a string")),
        }
    }

    fn strings(&mut self, name: &str) -> Result<Vec<String>, ConfigError> {
        let Some(value) = self.take(name) else {
            return Ok(Vec::new());
        };
        let texts = value.as_array().map(|items| {
            items
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect()
        });
        texts
            .flatten()
            .ok_or_else(|| self.invalid(name, "a list of strings"))
    }

    fn boolean(&mut self, name: &str) -> Result<Option<bool>, ConfigError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        value
            .as_bool()
            .map(Some)
            .ok_or_else(|| self.invalid(name, "true or false"))
    }

    /// Envoy turns a `Struct` into JSON with numbers that may carry a fraction of zero.
    fn number(&mut self, name: &str) -> Result<Option<u64>, ConfigError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let whole = value
            .as_f64()
            .filter(|number| number.fract() == 0.0 && (0.0..9e15).contains(number));
        whole
            .map(|number| Some(number as u64))
            .ok_or_else(|| self.invalid(name, "a whole number"))
    }

    fn end(self) -> Result<(), ConfigError> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(name) => Err(ConfigError::Unknown(self.field(name))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_error(json: &str, expected: &str) {
        assert_eq!(
            Config::parse(json.as_bytes()).map_err(|error| error.to_string()),
            Err(expected.to_owned()),
            "{json}"
        );
    }

    #[test]
    fn errors_name_the_field() {
        for (json, expected) in [
            ("", "the plugin configuration is not a JSON object"),
            ("[]", "the plugin configuration is not a JSON object"),
            ("{}", "`control` is missing"),
            (r#"{"control": 1}"#, "`control` is not an object"),
            (r#"{"control": {}}"#, "`control.cluster` is missing"),
            (
                r#"{"control": {"cluster": "c", "x": 1}}"#,
                "unknown field `control.x`",
            ),
            (
                r#"{"control": {"cluster": "c", "token": "a b"}}"#,
                "`control.token` is not printable ASCII without spaces",
            ),
            (
                r#"{"control": {"cluster": "c"}, "hots": []}"#,
                "unknown field `hots`",
            ),
            (
                r#"{"control": {"cluster": "c"}, "root": "yes"}"#,
                "`root` is not true or false",
            ),
            (
                r#"{"control": {"cluster": "c"}, "hosts": [1]}"#,
                "`hosts` is not a list of strings",
            ),
            (
                r#"{"control": {"cluster": "c"}, "rewrite": "x"}"#,
                "`rewrite` is not \"filter\" or \"route\"",
            ),
            (
                r#"{"control": {"cluster": "c"}, "hold": {"limit": -1}}"#,
                "`hold.limit` is not a whole number",
            ),
            (
                r#"{"control": {"cluster": "c"}, "hold": {"limits": 1}}"#,
                "unknown field `hold.limits`",
            ),
        ] {
            check_error(json, expected);
        }
        let long = format!(r#"{{"control": {{"cluster": "{}"}}}}"#, "x".repeat(121));
        check_error(
            &long,
            "`control.cluster` is not an ASCII name (with the authority at most 120 bytes)",
        );
    }

    #[test]
    fn defaults_and_numbers_of_a_struct() {
        let config = Config::parse(
            br#"{"control": {"cluster": "c"}, "hosts": ["A.example"], "hold": {"limit": 7.0}}"#,
        )
        .unwrap();
        assert_eq!(
            config.hold,
            HoldLimits {
                limit: 7,
                bytes: 268_435_456,
                body_buffer: 1_048_576,
                start: Millis(2_000)
            }
        );
        assert_eq!(
            (config.rewrite, config.root, config.hosts),
            (Rewrite::Filter, false, vec!["a.example".to_owned()])
        );
    }

    #[test]
    fn the_serialised_service() {
        let config = Config::parse(br#"{"control": {"cluster": "eabcd"}}"#).unwrap();
        assert_eq!(config.grpc_service().as_bytes(), b"\x0a\x07\x0a\x05eabcd");
        let config =
            Config::parse(br#"{"control": {"cluster": "c", "authority": "ctl:1"}}"#).unwrap();
        assert_eq!(
            config.grpc_service().as_bytes(),
            b"\x0a\x0a\x0a\x01c\x12\x05ctl:1"
        );
        let longest = format!(
            r#"{{"control": {{"cluster": "{}", "authority": "a"}}}}"#,
            "x".repeat(119)
        );
        assert_eq!(
            Config::parse(longest.as_bytes())
                .unwrap()
                .grpc_service()
                .len(),
            126
        );
    }
}
