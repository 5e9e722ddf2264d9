//! The structural schema of a kind, compiled once: unknown fields, defaults and value checks on JSON.
//!
//! Paths and meanings are those of the Kubernetes API server (`apiextensions-apiserver/pkg/apiserver/schema`).

use std::{collections::BTreeMap, fmt, str::FromStr};

use regex::Regex;
use serde_json::{Map, Value};

use super::FieldError;
use crate::{Duration, ParseQuantityError, Quantity, crd};

/// Errors that are reported at most for one document.
pub(super) const MAX_ERRORS: usize = 100;
/// Characters of a refused value that are shown.
const SHOWN: usize = 64;

/// Where the walk is; written out only for an error.
#[derive(Clone, Copy)]
pub(super) enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => f.write_str(name),
            Path::Field(parent, name) => write!(f, "{parent}.{name}"),
            Path::Index(parent, at) => write!(f, "{parent}[{at}]"),
        }
    }
}

/// What is wrong with a document so far.
#[derive(Default)]
pub(super) struct Errors {
    found: Vec<FieldError>,
    blocking: bool,
}

impl Errors {
    /// An error after which no rule is asked: the object is not of the shape that rules are written for. An API server
    /// draws the line at the same place (`hasBlockingErr`): wrong types and unknown words, what is missing, what is too long.
    pub(super) fn push(&mut self, path: Path<'_>, message: String) {
        self.blocking = true;
        self.also(path, message);
    }

    /// An error beside which the rules are asked too.
    pub(super) fn also(&mut self, path: Path<'_>, message: String) {
        self.add(FieldError { path: path.to_string(), message, location: None });
    }

    pub(super) fn add(&mut self, error: FieldError) {
        if self.found.len() < MAX_ERRORS {
            self.found.push(error);
        }
    }

    pub(super) fn is_blocking(&self) -> bool {
        self.blocking
    }

    /// Ends a step: what it found, if it found anything.
    pub(super) fn check(self) -> Result<(), Vec<FieldError>> {
        if self.found.is_empty() { Ok(()) } else { Err(self.found) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Object,
    Array,
    String,
    Integer,
    Boolean,
    IntOrString,
}

impl Type {
    fn describe(self) -> &'static str {
        match self {
            Type::Object => "a map",
            Type::Array => "a list",
            Type::String => "a string",
            Type::Integer => "an integer",
            Type::Boolean => "true or false",
            Type::IntOrString => "an integer or a string",
        }
    }

    fn holds(self, value: &Value) -> bool {
        match self {
            Type::Object => value.is_object(),
            Type::Array => value.is_array(),
            Type::String => value.is_string(),
            Type::Integer => as_integer(value).is_some(),
            Type::Boolean => value.is_boolean(),
            Type::IntOrString => value.is_string() || as_integer(value).is_some(),
        }
    }
}

fn as_integer(value: &Value) -> Option<i64> {
    value.as_i64()
}

/// The whole number that is meant, where a fraction or an exponent is written and JSON's numbers are still exact.
#[expect(clippy::cast_possible_truncation, reason = "it is whole, and within 53 bits")]
fn whole(number: f64) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_991.0;
    (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i64)
}

/// A schema node.
#[derive(Debug)]
pub(super) struct Schema {
    kind: Type,
    properties: BTreeMap<String, Schema>,
    additional: Option<Box<Schema>>,
    items: Option<Box<Schema>>,
    required: Vec<String>,
    allowed: Vec<String>,
    pattern: Option<(Regex, String)>,
    length: (usize, usize),
    range: (i64, i64),
    count: (usize, usize),
    keys: Vec<String>,
    default: Option<Value>,
    /// Its value is never shown (OpenAPI's format `password`).
    secret: bool,
}

impl Schema {
    /// Compiles a schema of the CRD.
    pub(super) fn compile(schema: &Value) -> Result<Self, String> {
        let text = |name: &str| schema.get(name).and_then(Value::as_str);
        let number = |name: &str, default: i64| match schema.get(name) {
            None => Ok(default),
            #[expect(
                clippy::cast_possible_truncation,
                reason = "an `as` from float saturates, which is what is meant"
            )]
            Some(value) => value
                .as_i64()
                .or_else(|| value.as_f64().map(|float| float as i64))
                .ok_or_else(|| format!("{name} is not a number: {value}")),
        };
        let size = |name: &str, default: usize| match schema.get(name) {
            None => Ok(default),
            Some(value) => value
                .as_u64()
                .and_then(|number| usize::try_from(number).ok())
                .ok_or_else(|| format!("{name} is not a size: {value}")),
        };
        let strings = |name: &str| -> Vec<String> {
            let list = schema.get(name).and_then(Value::as_array);
            list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let int_or_string = schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
        let kind = match text("type") {
            _ if int_or_string => Type::IntOrString,
            Some("object") => Type::Object,
            Some("array") => Type::Array,
            Some("string") => Type::String,
            Some("integer") => Type::Integer,
            Some("boolean") => Type::Boolean,
            other => return Err(format!("type {other:?} is not known")),
        };
        let mut properties = BTreeMap::new();
        for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            properties.insert(name.clone(), Self::compile(property).map_err(|e| format!("{name}: {e}"))?);
        }
        let pattern = match text("pattern") {
            None => None,
            Some(pattern) => Some((Regex::new(pattern).map_err(|e| e.to_string())?, pattern.to_owned())),
        };
        let child = |name: &str| schema.get(name).map(|child| Self::compile(child).map(Box::new)).transpose();
        Ok(Self {
            kind,
            properties,
            additional: child("additionalProperties")?,
            items: child("items")?,
            required: strings("required"),
            allowed: strings("enum"),
            pattern,
            length: (size("minLength", 0)?, size("maxLength", usize::MAX)?),
            range: match text("format") {
                Some("int32") => (
                    number("minimum", i32::MIN.into())?.max(i32::MIN.into()),
                    number("maximum", i32::MAX.into())?.min(i32::MAX.into()),
                ),
                _ => (number("minimum", i64::MIN)?, number("maximum", i64::MAX)?),
            },
            count: (
                size("minItems", 0)?.max(size("minProperties", 0)?),
                size("maxItems", usize::MAX)?.min(size("maxProperties", usize::MAX)?),
            ),
            keys: strings("x-kubernetes-list-map-keys"),
            default: schema.get("default").cloned(),
            secret: text("format") == Some("password"),
        })
    }

    /// Reports fields that the schema does not have.
    pub(super) fn unknown(&self, value: &Value, path: Path<'_>, errors: &mut Errors) {
        match value {
            Value::Object(map) if self.additional.is_none() => {
                for (name, value) in map {
                    let here = Path::Field(&path, name);
                    match self.properties.get(name) {
                        Some(property) => property.unknown(value, here, errors),
                        None if self.kind == Type::Object => errors.push(here, self.unknown_field(name)),
                        None => {}
                    }
                }
            }
            Value::Object(map) => {
                for (name, value) in map {
                    if let Some(additional) = &self.additional {
                        additional.unknown(value, Path::Field(&path, name), errors);
                    }
                }
            }
            Value::Array(list) => {
                if let Some(items) = &self.items {
                    for (at, value) in list.iter().enumerate() {
                        items.unknown(value, Path::Index(&path, at), errors);
                    }
                }
            }
            _ => {}
        }
    }

    fn unknown_field(&self, name: &str) -> String {
        match nearest(name, self.properties.keys().map(String::as_str)) {
            Some(known) => format!("unknown field, did you mean \"{known}\"?"),
            None => "unknown field".to_owned(),
        }
    }

    /// Makes of a document what an API server makes of it before it looks: a field that is `null` says nothing, a whole
    /// number may be written as `1.0`, and what is not said is filled in.
    pub(super) fn fill(&self, value: &mut Value) {
        match value {
            Value::Number(number) if matches!(self.kind, Type::Integer | Type::IntOrString) => {
                if let Some(whole) = number.as_f64().filter(|_| !number.is_i64()).and_then(whole) {
                    *value = whole.into();
                }
            }
            // Rules multiply what is small beyond the smallest amount, and overflow.
            Value::String(text) if self.has_pattern(Quantity::PATTERN) && text.contains(['e', 'E']) => {
                if let Ok(quantity) = Quantity::from_str(text) {
                    *text = quantity.to_string();
                }
            }
            // They know one spelling of it; both mean the same.
            Value::String(text) if self.has_pattern(Duration::PATTERN) && text.contains('µ') => {
                *text = text.replace('µ', "u");
            }
            Value::Object(map) => {
                map.retain(|name, value| !(value.is_null() && self.properties.contains_key(name)));
                for (name, property) in &self.properties {
                    if let Some(default) = &property.default
                        && !map.contains_key(name)
                    {
                        map.insert(name.clone(), default.clone());
                    }
                    if let Some(value) = map.get_mut(name) {
                        property.fill(value);
                    }
                }
            }
            Value::Array(list) => {
                if let Some(items) = &self.items {
                    list.iter_mut().for_each(|value| items.fill(value));
                }
            }
            _ => {}
        }
    }

    fn has_pattern(&self, wanted: &str) -> bool {
        self.pattern.as_ref().is_some_and(|(_, pattern)| pattern == wanted)
    }

    /// Checks types and values.
    pub(super) fn check(&self, value: &Value, path: Path<'_>, errors: &mut Errors) {
        if !self.kind.holds(value) {
            let hint = match (self.kind, value) {
                (Type::IntOrString, Value::Number(_)) => format!(": write \"{value}\""),
                (Type::String, Value::Number(_) | Value::Bool(_)) => ": put it in quotes".to_owned(),
                _ => String::new(),
            };
            let what = if self.secret { sort(value).to_owned() } else { describe(value) };
            let kind = self.kind.describe();
            return errors.push(path, format!("must be {kind}, not {what}{hint}"));
        }
        match value {
            Value::Object(map) => self.check_map(map, path, errors),
            Value::Array(list) => self.check_list(list, path, errors),
            Value::String(text) => self.check_text(text, path, errors),
            other => {
                if let Some(number) = as_integer(other) {
                    let (min, max) = self.range;
                    if number < min {
                        errors.also(path, format!("must be {min} or more, not {number}"));
                    } else if number > max {
                        errors.also(path, format!("must be {max} or less, not {number}"));
                    }
                }
            }
        }
    }

    fn check_map(&self, map: &Map<String, Value>, path: Path<'_>, errors: &mut Errors) {
        for name in &self.required {
            if !map.contains_key(name) {
                errors.push(Path::Field(&path, name), "is required".to_owned());
            }
        }
        self.check_count(map.len(), "entries", path, errors);
        for (name, value) in map {
            let here = Path::Field(&path, name);
            if let Some(schema) = self.properties.get(name).or(self.additional.as_deref()) {
                schema.check(value, here, errors);
            }
        }
    }

    fn check_list(&self, list: &[Value], path: Path<'_>, errors: &mut Errors) {
        self.check_count(list.len(), "items", path, errors);
        if let Some(items) = &self.items {
            for (at, value) in list.iter().enumerate().take(self.count.1) {
                items.check(value, Path::Index(&path, at), errors);
            }
        }
        if self.keys.is_empty() {
            return;
        }
        let mut seen = BTreeMap::new();
        for (at, value) in list.iter().enumerate().take(self.count.1) {
            let key: Vec<String> = self
                .keys
                .iter()
                .map(|name| value.get(name).map(Value::to_string).unwrap_or_default())
                .collect();
            let (first, again) = *seen.entry(key).and_modify(|(_, again)| *again += 1).or_insert((at, 0));
            // The second of several tells of all, as it does on a server.
            if again == 1 {
                let names: Vec<String> = self
                    .keys
                    .iter()
                    .map(|name| format!("{name} {}", show(&value.get(name).cloned().unwrap_or_default())))
                    .collect();
                errors.also(
                    Path::Index(&path, at),
                    format!("duplicate of item {first}: {} is there twice", names.join(", ")),
                );
            }
        }
    }

    fn check_count(&self, count: usize, what: &str, path: Path<'_>, errors: &mut Errors) {
        let (min, max) = self.count;
        if count > max {
            errors.push(path, format!("too many: {count} {what}, at most {max} are allowed"));
        } else if count < min {
            errors.also(path, format!("too few: {count} {what}, at least {min} must be there"));
        }
    }

    fn check_text(&self, text: &str, path: Path<'_>, errors: &mut Errors) {
        let shown = || show(&Value::String(text.to_owned()));
        if !self.allowed.is_empty() {
            if !self.allowed.iter().any(|allowed| allowed == text) {
                let supported: Vec<String> =
                    self.allowed.iter().map(|value| format!("\"{value}\"")).collect();
                errors.push(
                    path,
                    format!("unsupported value {}: must be one of {}", shown(), supported.join(", ")),
                );
            }
            return;
        }
        let (min, max) = self.length;
        // Most texts are shorter in bytes than the limit in characters, and need no count.
        let length = if text.len() <= max && text.len() >= min && min <= 1 {
            text.len()
        } else {
            text.chars().count()
        };
        if length > max {
            return errors.push(path, format!("too long: {length} characters, at most {max} are allowed"));
        }
        if length < min {
            return errors.also(path, "must not be empty".to_owned());
        }
        let nul = |errors: &mut Errors| {
            if text.contains('\0') {
                errors.also(path, "must not contain a NUL character".to_owned());
            }
        };
        let Some((regex, pattern)) = &self.pattern else { return nul(errors) };
        if !regex.is_match(text) {
            let why = crd::explain(pattern).unwrap_or_else(|| format!("must match '{pattern}'"));
            let message = format!("{why}, not {}", shown());
            if pattern == Quantity::PATTERN && is_vast(text) {
                return errors.push(path, message);
            }
            return errors.also(path, message);
        }
        let refused = match pattern.as_str() {
            Quantity::PATTERN => Quantity::from_str(text).err().map(|error| error.to_string()),
            Duration::PATTERN => Duration::from_str(text).err().map(|error| error.to_string()),
            _ => None,
        };
        if let Some(why) = refused {
            return errors.push(path, format!("{why}, not {}", shown()));
        }
        nul(errors);
    }
}

/// Whether a text may be an amount beyond what the rules can compare without an overflow.
fn is_vast(text: &str) -> bool {
    let is_number = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
    (is_number && text.contains(['e', 'E'])) || Quantity::from_str(text) == Err(ParseQuantityError::TooLarge)
}

/// What a value is, for a message.
fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null (leave the field out)".to_owned(),
        Value::Object(_) => "a map".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::String(_) => format!("the string {}", show(value)),
        Value::Bool(_) => value.to_string(),
        Value::Number(_) => format!("the number {value}"),
    }
}

/// What sort of value it is, where the value itself may be secret.
fn sort(value: &Value) -> &'static str {
    match value {
        Value::Null => "null (leave the field out)",
        Value::Object(_) => "a map",
        Value::Array(_) => "a list",
        Value::String(_) => "a string",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
    }
}

/// A value as a message shows it: JSON, cut when it is long.
pub(super) fn show(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= SHOWN {
        return text;
    }
    let head: String = text.chars().take(SHOWN).collect();
    format!("{head}…")
}

/// The known name that was probably meant.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > 64 {
        return None;
    }
    let wanted = name.to_lowercase();
    let limit = (wanted.chars().count() / 3).clamp(1, 3);
    known
        .map(|candidate| (distance(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
