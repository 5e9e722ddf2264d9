//! Where values come from: flags, the environment, the file; and which of them counts.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt,
    fs::File,
    io::{self, Read},
    path::PathBuf,
};

use serde_json::Value;
use stower_crds::{Document, Limits};

use super::{
    Config, ConfigError, DEFAULT_FILE, Flags, Problem,
    fields::{self, FIELDS, Field},
};

/// The longest configuration file, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// What all variables of the agent begin with.
const PREFIX: &str = "STOWER_";
/// The variable that names the file.
const FILE_VARIABLE: &str = "STOWER_CONFIG";
/// Variables that are no fields: the file, and what tests make a build for tests do.
const OTHER_VARIABLES: [&str; 3] = [FILE_VARIABLE, "STOWER_FAILPOINT", "STOWER_WALL_OFFSET"];

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// The file, at that line.
    File(u64),
    /// A variable of the environment.
    Environment,
    /// A flag.
    Flag,
}

/// A value that somebody gave.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// All values that were given, each field once, and what is wrong with them.
#[derive(Debug, Default)]
pub(super) struct Merged {
    pub(super) given: BTreeMap<&'static str, Given>,
    problems: Vec<(String, String)>,
}

impl Merged {
    fn value(&self, path: &str) -> Option<&Value> {
        debug_assert!(fields::find(path).is_some(), "{path} is not in the table");
        self.given.get(path).map(|given| &given.value)
    }

    pub(super) fn text(&self, path: &str) -> Option<&str> {
        self.value(path).and_then(Value::as_str)
    }

    pub(super) fn path(&self, path: &str, default: impl Into<PathBuf>) -> PathBuf {
        let found = self.text(path).map_or_else(|| default.into(), PathBuf::from);
        std::path::absolute(&found).unwrap_or(found)
    }

    pub(super) fn bool(&self, path: &str, default: bool) -> bool {
        self.value(path).and_then(Value::as_bool).unwrap_or(default)
    }

    pub(super) fn list(&self, path: &str) -> Vec<String> {
        let items = self.value(path).and_then(Value::as_array).into_iter().flatten();
        items.filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// A number, or what `default` is when there is none or it does not fit.
    pub(super) fn number<T: TryFrom<u64>>(&mut self, path: &str, default: T) -> T {
        let Some(number) = self.value(path).and_then(Value::as_u64) else { return default };
        T::try_from(number).unwrap_or_else(|_| {
            self.wrong(path, format!("{number} is too large"));
            default
        })
    }

    /// A map, read strictly.
    pub(super) fn map<T: serde::de::DeserializeOwned>(&mut self, path: &str) -> Option<T> {
        let value = self.value(path)?.clone();
        serde_json::from_value(value).map_err(|error| self.wrong(path, error.to_string())).ok()
    }

    /// The entries of a map whose keys are names.
    pub(super) fn entries(&self, path: &str) -> Vec<(String, Value)> {
        let map = self.value(path).and_then(Value::as_object).into_iter().flatten();
        map.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// Notes what is wrong with a field, or a part of one.
    pub(super) fn wrong(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.problems.push((path.into(), message.into()));
    }
}

/// What is said beside the file, and where the file is. It stays the same as long as the process lives.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The file.
    pub file: PathBuf,
    /// Whether somebody named it; else it may be missing.
    pub named: bool,
    fixed: BTreeMap<&'static str, Given>,
}

impl Sources {
    /// Takes flags and environment.
    ///
    /// # Errors
    /// All values of theirs that cannot be, and variables of that kind which nobody reads.
    pub fn new(
        flags: Flags,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let mut fixed = BTreeMap::new();
        let mut file = None;
        for (name, text) in environment {
            let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
            // An empty variable is as good as none, as people unset them in unit files.
            if text.is_empty() || OTHER_VARIABLES.contains(&name) || is_service_link(name) {
                if name == FILE_VARIABLE && !text.is_empty() {
                    file = Some(PathBuf::from(text));
                }
                continue;
            }
            match variable(name, &text) {
                Ok((field, value)) => {
                    fixed.insert(field.path, Given { value, origin: Origin::Environment });
                }
                Err(message) => problems.push(Problem { place: Some(name.to_owned()), field: None, message }),
            }
        }
        file = flags.config.clone().or(file);
        for (path, value) in flags.values() {
            fixed.insert(path, Given { value, origin: Origin::Flag });
        }
        if problems.is_empty() {
            let named = file.is_some();
            Ok(Self { file: file.unwrap_or_else(|| DEFAULT_FILE.into()), named, fixed })
        } else {
            Err(ConfigError::Invalid(problems))
        }
    }

    /// The file's bytes; `None` when there is none and nobody named it.
    ///
    /// # Errors
    /// When it cannot be read, or is too long.
    pub fn read(&self) -> Result<Option<Vec<u8>>, ConfigError> {
        let path = &self.file;
        let failed = |source| ConfigError::Read { path: path.clone(), source };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.named => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(ConfigError::TooLong { path: path.clone(), most: MAX_FILE });
        }
        Ok(Some(bytes))
    }

    /// What the agent runs with, when the file says this.
    ///
    /// # Errors
    /// All that is wrong, each with its place.
    pub fn with_file(&self, bytes: &[u8]) -> Result<Config, ConfigError> {
        let document = self.parse(bytes).map_err(|problem| ConfigError::Invalid(vec![problem]))?;
        let mut merged = Merged::default();
        let mut problems = Vec::new();
        if let Some(document) = &document {
            self.take("", &document.value, document, &mut merged, &mut problems);
        }
        // What comes later wins.
        merged.given.extend(self.fixed.clone());
        let mut config = Config::derive(&mut merged);
        problems.extend(merged.problems.iter().map(|(path, message)| {
            let place = self.place(path, &merged, document.as_ref());
            Problem { place, field: Some(path.clone()), message: message.clone() }
        }));
        if !problems.is_empty() {
            return Err(ConfigError::Invalid(problems));
        }
        config.origins = merged.given.into_iter().map(|(path, given)| (path, given.origin)).collect();
        Ok(config)
    }

    /// [`Sources::read`] and [`Sources::with_file`].
    ///
    /// # Errors
    /// As they have them.
    pub fn load(&self) -> Result<Config, ConfigError> {
        self.with_file(&self.read()?.unwrap_or_default())
    }

    fn at(&self, at: impl fmt::Display) -> Option<String> {
        Some(format!("{}:{at}", self.file.display()))
    }

    fn parse(&self, bytes: &[u8]) -> Result<Option<Document>, Problem> {
        let limits =
            Limits { max_bytes: usize::try_from(MAX_FILE).unwrap_or(usize::MAX), ..Limits::default() };
        let problem = |place, message: String| Problem { place, field: None, message };
        let mut documents = stower_crds::read_documents(bytes, &limits).map_err(|error| {
            problem(self.at(format_args!("{}:{}", error.line, error.column)), error.message)
        })?;
        if let Some(second) = documents.get(1) {
            let place = self.at(format_args!("{}:1", second.first_line));
            return Err(problem(place, "a configuration is one document".to_owned()));
        }
        let document = documents.pop();
        if let Some(document) = document.as_ref().filter(|document| !document.value.is_object()) {
            let place = self.at(format_args!("{}:1", document.first_line));
            return Err(problem(place, "a configuration is a map of fields".to_owned()));
        }
        Ok(document)
    }

    /// Takes the values of one level of the file.
    fn take(
        &self,
        above: &str,
        value: &Value,
        document: &Document,
        merged: &mut Merged,
        problems: &mut Vec<Problem>,
    ) {
        for (key, value) in value.as_object().into_iter().flatten() {
            let path = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
            let below = format!("{path}.");
            let mut wrong = |message| {
                let place = self.at(document.locate(&path));
                problems.push(Problem { place, field: Some(path.clone()), message });
            };
            if let Some(field) = fields::find(&path) {
                match fields::shaped(field.shape, value.clone()) {
                    _ if value.is_null() => {}
                    Ok(value) => {
                        let origin = Origin::File(document.locate(&path).line);
                        merged.given.insert(field.path, Given { value, origin });
                    }
                    Err(message) => wrong(message),
                }
            } else if !FIELDS.iter().any(|field| field.path.starts_with(&below)) {
                wrong(unknown(above, key));
            } else if value.is_object() {
                self.take(&path, value, document, merged, problems);
            } else if !value.is_null() {
                wrong("must be a map of fields".to_owned());
            }
        }
    }

    /// Where to look for what is wrong with a field: at the place that set it.
    fn place(&self, path: &str, merged: &Merged, document: Option<&Document>) -> Option<String> {
        let field = FIELDS.iter().find(|field| {
            path.strip_prefix(field.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })?;
        match merged.given.get(field.path)?.origin {
            Origin::Default => None,
            Origin::File(_) => document.and_then(|document| self.at(document.locate(path))),
            Origin::Environment => Some(fields::variable(field.path)),
            Origin::Flag => field.flag.map(str::to_owned),
        }
    }

    /// A value's origin, for people.
    pub(super) fn describe(&self, path: &str, origin: Origin) -> String {
        match origin {
            Origin::Default => "default".to_owned(),
            Origin::File(line) => format!("{}:{line}", self.file.display()),
            Origin::Environment => format!("environment {}", fields::variable(path)),
            Origin::Flag => {
                format!("flag {}", fields::find(path).and_then(|field| field.flag).unwrap_or_default())
            }
        }
    }
}

/// Fields of one level, as a hint for who mistyped one.
fn unknown(above: &str, key: &str) -> String {
    let prefix = if above.is_empty() { String::new() } else { format!("{above}.") };
    let mut names: Vec<&str> =
        FIELDS.iter().filter_map(|field| field.path.strip_prefix(&prefix)?.split('.').next()).collect();
    names.dedup();
    match names.iter().find(|name| name.eq_ignore_ascii_case(key)) {
        Some(name) => format!("unknown field; {name} is meant?"),
        None => format!("unknown field; there are {}", names.join(", ")),
    }
}

fn variable(name: &str, text: &OsStr) -> Result<(&'static Field, Value), String> {
    let squeezed = |name: &str| name.replace('_', "");
    let Some(field) = FIELDS.iter().find(|field| fields::variable(field.path) == name) else {
        let like = FIELDS.iter().map(|field| fields::variable(field.path));
        let like = like.chain([FILE_VARIABLE.to_owned()]).find(|like| squeezed(like) == squeezed(name));
        let hint = like.map_or_else(String::new, |like| format!("; {like} is meant?"));
        return Err(format!("the agent has no such variable{hint}"));
    };
    let text = text.to_str().ok_or_else(|| "is not UTF-8".to_owned())?;
    fields::from_text(field.shape, text).map(|value| (field, value))
}

/// Whether a variable is of those that Kubernetes and Docker give every process for a service named `stower` or `stower-…`
/// (`STOWER_SERVICE_HOST`, `STOWER_PORT_80_TCP_ADDR`, …). They are nobody's word to the agent.
fn is_service_link(name: &str) -> bool {
    let words: Vec<&str> = name.split('_').collect();
    let after = |word: &str| words.iter().rposition(|it| *it == word).map(|at| &words[at + 1..]);
    let number = |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let service = words.iter().position(|it| *it == "SERVICE").map(|at| &words[at + 1..]);
    let port = words.iter().position(|it| *it == "PORT").map(|at| &words[at + 1..]);
    matches!(service, Some(["HOST"] | ["PORT", ..]))
        || after("PORT").is_some_and(<[&str]>::is_empty)
        || matches!(port, Some([first, "TCP" | "UDP" | "SCTP", ..]) if number(first))
}

impl Flags {
    /// What they say, by field.
    fn values(self) -> Vec<(&'static str, Value)> {
        let path = |path: Option<PathBuf>| path.map(|path| Value::from(path.to_string_lossy()));
        let list = |list: Vec<String>| (!list.is_empty()).then(|| Value::from(list));
        let all = [
            ("manifests", path(self.manifests)),
            ("dataRoot", path(self.data_root)),
            ("runRoot", path(self.run_root)),
            ("socket", path(self.socket)),
            ("nodeName", self.node_name.map(Value::from)),
            ("storageDriver", self.storage_driver.map(Value::from)),
            ("storageOpts", list(self.storage_opts)),
            ("metricsBindAddress", self.metrics_bind_address.map(Value::from)),
            ("volumeCapacity", self.volume_capacity.map(Value::from)),
            ("insecureRegistries", list(self.insecure_registries)),
            ("allowEmpty", self.allow_empty.then(|| Value::from(true))),
            ("kube.enabled", self.kube.then(|| Value::from(true))),
            ("kube.kubeconfig", path(self.kubeconfig)),
            ("kube.context", self.kube_context.map(Value::from)),
        ];
        all.into_iter().filter_map(|(path, value)| Some((path, value?))).collect()
    }
}
