//! Changes to how an image is run, as `docker commit --change` takes them: one instruction of a Dockerfile each.
//!
//! Strict where Dockerfiles are lenient: what is not understood is refused by name and never dropped.

use serde_json::{Map, Value, json};

use super::manifest::clip;

/// All that there are.
const KNOWN: [&str; 10] =
    ["CMD", "ENTRYPOINT", "ENV", "EXPOSE", "LABEL", "ONBUILD", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"];
/// No instruction of a person is longer.
const MAX: usize = 64 << 10;

/// One change to an image's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigChange {
    instruction: &'static str,
    rest: String,
}

/// The text is no change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseChangeError {
    /// Another instruction.
    #[error(
        "{0:?} cannot be changed; expected one of CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR"
    )]
    Unknown(String),
    /// The instruction's own rules.
    #[error("{instruction}: {what}")]
    Value {
        /// Which instruction.
        instruction: &'static str,
        /// What is wrong.
        what: String,
    },
}

impl std::fmt::Display for ConfigChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.instruction, self.rest)
    }
}

impl std::str::FromStr for ConfigChange {
    type Err = ParseChangeError;

    /// Checks all that can be checked without knowing the image.
    fn from_str(text: &str) -> Result<Self, ParseChangeError> {
        let text = text.trim();
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let instruction = KNOWN
            .into_iter()
            .find(|known| known.eq_ignore_ascii_case(word))
            .ok_or_else(|| ParseChangeError::Unknown(clip(word)))?;
        let change = Self { instruction, rest: rest.trim().to_owned() };
        let wrong = |what: &str| change.wrong(what);
        if change.rest.is_empty() {
            return Err(wrong("needs a value"));
        }
        if change.rest.len() > MAX {
            return Err(wrong("is too long"));
        }
        if change.rest.contains(['\n', '\r', '\0']) {
            return Err(wrong("must be one line"));
        }
        // What a variable stands for, only the image can tell.
        if !change.rest.contains('$') {
            change.apply(&mut Map::new(), &mut Applied::default())?;
        }
        Ok(change)
    }
}

/// What the changes before have done.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    cmd: bool,
}

type Config = Map<String, Value>;

impl ConfigChange {
    fn wrong(&self, what: impl Into<String>) -> ParseChangeError {
        ParseChangeError::Value { instruction: self.instruction, what: what.into() }
    }

    /// Applies it to the `config` object of an image configuration.
    pub(crate) fn apply(&self, config: &mut Config, before: &mut Applied) -> Result<(), ParseChangeError> {
        match self.instruction {
            "CMD" => {
                set(config, "Cmd", json!(self.command()?));
                before.cmd = true;
            }
            "ENTRYPOINT" => {
                set(config, "Entrypoint", json!(self.command()?));
                // The arguments were for the old one (Docker's builder does the same).
                if !before.cmd {
                    config.remove("Cmd");
                }
            }
            "ENV" => {
                let mut env = strings(config.get("Env"));
                for (name, value) in self.pairs(config)? {
                    env.retain(|there| there.split('=').next() != Some(name.as_str()));
                    env.push(format!("{name}={value}"));
                }
                set(config, "Env", json!(env));
            }
            "LABEL" => {
                let pairs = self.pairs(config)?;
                let labels = object(config, "Labels");
                labels.extend(pairs.into_iter().map(|(name, value)| (name, json!(value))));
            }
            "EXPOSE" => {
                let ports =
                    self.words(config)?.iter().map(|word| self.ports(word)).collect::<Result<Vec<_>, _>>()?;
                object(config, "ExposedPorts")
                    .extend(ports.into_iter().flatten().map(|port| (port, json!({}))));
            }
            "VOLUME" => {
                let paths = match self.list()? {
                    Some(list) => list,
                    None => self.words(config)?,
                };
                for path in &paths {
                    if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
                        return Err(
                            self.wrong(format!("{:?} is not an absolute path without '..'", clip(path)))
                        );
                    }
                }
                if paths.is_empty() {
                    return Err(self.wrong("needs a path"));
                }
                object(config, "Volumes").extend(paths.into_iter().map(|path| (path, json!({}))));
            }
            "USER" => {
                let user = self.one(config)?;
                set(config, "User", json!(user));
            }
            "WORKDIR" => {
                let to = self.one(config)?;
                let from = config.get("WorkingDir").and_then(Value::as_str).unwrap_or_default();
                set(config, "WorkingDir", json!(resolve(from, &to)));
            }
            "STOPSIGNAL" => {
                let signal = self.one(config)?;
                let number = signal.parse::<u8>().is_ok_and(|number| (1..=64).contains(&number));
                let name = signal.trim_start_matches("SIG");
                let name = !name.is_empty()
                    && name
                        .bytes()
                        .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b"+-".contains(&b));
                let name = name && signal.starts_with(|c: char| c.is_ascii_uppercase());
                if !number && !name {
                    return Err(
                        self.wrong(format!("{:?} is not a signal, such as SIGTERM or 15", clip(&signal)))
                    );
                }
                set(config, "StopSignal", json!(signal));
            }
            // The instruction is for whoever builds on the image; it is kept as it is.
            _ => {
                let word = self.rest.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
                if matches!(word.as_str(), "ONBUILD" | "FROM" | "MAINTAINER") {
                    return Err(self.wrong(format!("{word} is not allowed as a trigger")));
                }
                let mut triggers = strings(config.get("OnBuild"));
                triggers.push(self.rest.clone());
                set(config, "OnBuild", json!(triggers));
            }
        }
        Ok(())
    }

    /// A JSON list of strings, where it looks like one.
    fn list(&self) -> Result<Option<Vec<String>>, ParseChangeError> {
        if !self.rest.starts_with('[') {
            return Ok(None);
        }
        serde_json::from_str(&self.rest)
            .map(Some)
            .map_err(|_| self.wrong("looks like a JSON list, but is none of strings in double quotes"))
    }

    /// A list as it stands, anything else by a shell.
    fn command(&self) -> Result<Vec<String>, ParseChangeError> {
        let shell = || ["/bin/sh", "-c", &self.rest].map(str::to_owned).to_vec();
        Ok(self.list()?.unwrap_or_else(shell))
    }

    fn one(&self, config: &Config) -> Result<String, ParseChangeError> {
        match <[String; 1]>::try_from(self.words(config)?) {
            Ok([word]) if !word.is_empty() => Ok(word),
            _ => Err(self.wrong("takes one value; quote it where it has spaces")),
        }
    }

    /// `name=value` several times, or `name value` once.
    fn pairs(&self, config: &Config) -> Result<Vec<(String, String)>, ParseChangeError> {
        let first = self.rest.split_whitespace().next().unwrap_or_default();
        let pairs: Vec<(String, String)> = if first.contains('=') {
            let words = self.words(config)?;
            let split = words.iter().map(|word| {
                let (name, value) = word.split_once('=').ok_or_else(|| {
                    self.wrong(format!("{:?} is not NAME=VALUE; quote a value that has spaces", clip(word)))
                })?;
                Ok((name.to_owned(), value.to_owned()))
            });
            split.collect::<Result<_, _>>()?
        } else {
            let (name, value) = self
                .rest
                .split_once(char::is_whitespace)
                .ok_or_else(|| self.wrong(format!("{:?} is not NAME=VALUE", clip(first))))?;
            vec![(name.to_owned(), value.trim().to_owned())]
        };
        if pairs.iter().any(|(name, _)| name.is_empty()) {
            return Err(self.wrong("has a value without a name"));
        }
        Ok(pairs)
    }

    /// `80`, `80/udp`, `8000-8010/tcp`.
    fn ports(&self, word: &str) -> Result<Vec<String>, ParseChangeError> {
        let wrong = || self.wrong(format!("{:?} is not a port, such as 80, 53/udp or 8000-8010", clip(word)));
        let (range, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
        let protocol = protocol.to_ascii_lowercase();
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong);
        let (from, to) = (port(from)?, port(to)?);
        if from > to || !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
            return Err(wrong());
        }
        Ok((from..=to).map(|port| format!("{port}/{protocol}")).collect())
    }

    /// Words as a shell splits them, with the image's variables put in.
    fn words(&self, config: &Config) -> Result<Vec<String>, ParseChangeError> {
        let env = strings(config.get("Env"));
        let value = |name: &str| {
            let found = env.iter().find_map(|one| one.split_once('=').filter(|(key, _)| *key == name));
            found.map_or("", |(_, value)| value)
        };
        let mut out = Vec::new();
        let mut word: Option<String> = None;
        let mut quote: Option<char> = None;
        let mut left = self.rest.chars().peekable();
        while let Some(c) = left.next() {
            match (c, quote) {
                (c, None) if c.is_whitespace() => out.extend(word.take()),
                ('\'' | '"', None) => {
                    quote = Some(c);
                    word.get_or_insert_default();
                }
                (c, Some(open)) if c == open => quote = None,
                ('\\', None | Some('"')) => {
                    let next = left.next().ok_or_else(|| self.wrong("ends in a backslash"))?;
                    let kept = quote.is_some() && !matches!(next, '"' | '\\' | '$');
                    let word = word.get_or_insert_default();
                    word.extend(kept.then_some('\\'));
                    word.push(next);
                }
                ('$', None | Some('"')) => {
                    let word = word.get_or_insert_default();
                    let braces = left.next_if_eq(&'{').is_some();
                    let mut name = String::new();
                    while let Some(c) = left.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
                        name.push(c);
                    }
                    if braces && left.next_if_eq(&'}').is_none() {
                        return Err(
                            self.wrong("has a ${...} that is more than a name, which is not supported")
                        );
                    }
                    match (name.is_empty(), braces) {
                        (false, _) => word.push_str(value(&name)),
                        (true, false) => word.push('$'),
                        (true, true) => return Err(self.wrong("has an empty ${}")),
                    }
                }
                (c, _) => word.get_or_insert_default().push(c),
            }
        }
        if quote.is_some() {
            return Err(self.wrong("has a quote that is not closed"));
        }
        out.extend(word);
        Ok(out)
    }
}

fn set(config: &mut Config, key: &str, value: Value) {
    config.insert(key.to_owned(), value);
}

/// The strings of a list; anything else is none.
fn strings(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|value| value.as_str().map(str::to_owned)).collect()
}

/// A set or a map, made where there is none. A list of names becomes a set.
fn object<'a>(config: &'a mut Config, key: &str) -> &'a mut Config {
    let slot = config.entry(key).or_insert_with(|| json!({}));
    if !slot.is_object() {
        let names = strings(Some(slot));
        *slot = Value::Object(names.into_iter().map(|name| (name, json!({}))).collect());
    }
    match slot {
        Value::Object(map) => map,
        _ => unreachable!("it was made an object above"),
    }
}

/// `to`, seen from `from`, which never leads above the root.
fn resolve(from: &str, to: &str) -> String {
    let whole = if to.starts_with('/') { to.to_owned() } else { format!("{from}/{to}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests;
