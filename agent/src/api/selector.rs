//! Label selectors as Kubernetes writes them, and the few field selectors that there are.

use serde_json::Value;

/// A label selector: all its requirements must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LabelSelector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    want: Want,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Want {
    /// Has the label, with one of these values.
    In(Vec<String>),
    /// Has not the label, or with none of these values.
    NotIn(Vec<String>),
    /// Has the label.
    Exists,
    /// Has not the label.
    Absent,
}

impl LabelSelector {
    /// Reads `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            let (one, tail) = split_requirement(rest);
            requirements.push(requirement(one.trim()).ok_or_else(|| {
                format!("unable to parse requirement {:?} of the label selector", one.trim())
            })?);
            rest = tail.trim_start();
        }
        Ok(Self(requirements))
    }

    /// Whether an object's labels match.
    pub(super) fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.0.iter().all(|requirement| {
            let label = labels.get(&requirement.key).and_then(Value::as_str);
            match &requirement.want {
                Want::In(values) => label.is_some_and(|label| values.iter().any(|value| value == label)),
                Want::NotIn(values) => label.is_none_or(|label| values.iter().all(|value| value != label)),
                Want::Exists => label.is_some(),
                Want::Absent => label.is_none(),
            }
        })
    }
}

/// The text up to the next comma outside brackets, and what follows it.
fn split_requirement(text: &str) -> (&str, &str) {
    let mut open = false;
    for (at, c) in text.char_indices() {
        match c {
            '(' => open = true,
            ')' => open = false,
            ',' if !open => return (&text[..at], &text[at + 1..]),
            _ => {}
        }
    }
    (text, "")
}

fn requirement(text: &str) -> Option<Requirement> {
    let made = |key: &str, want| is_key(key).then(|| Requirement { key: key.to_owned(), want });
    let value = |text: &str| is_value(text.trim()).then(|| vec![text.trim().to_owned()]);
    if let Some(key) = text.strip_prefix('!') {
        return made(key.trim(), Want::Absent);
    }
    if let Some((key, values)) = text.split_once('(') {
        let values: Vec<_> =
            values.strip_suffix(')')?.split(',').map(|value| value.trim().to_owned()).collect();
        if !values.iter().all(|value| is_value(value)) {
            return None;
        }
        let (key, word) = key.trim().rsplit_once(char::is_whitespace)?;
        return match word {
            "in" => made(key.trim(), Want::In(values)),
            "notin" => made(key.trim(), Want::NotIn(values)),
            _ => None,
        };
    }
    if let Some((key, text)) = text.split_once("!=") {
        return made(key.trim(), Want::NotIn(value(text)?));
    }
    if let Some((key, text)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return made(key.trim(), Want::In(value(text)?));
    }
    made(text, Want::Exists)
}

fn is_key(key: &str) -> bool {
    let name = key.split_once('/').map_or(key, |(_, name)| name);
    !name.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
}

fn is_value(value: &str) -> bool {
    value.len() <= 63 && value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// A field selector: all its comparisons must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FieldSelector(Vec<Comparison>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Comparison {
    /// The field as a JSON pointer.
    pointer: String,
    equal: bool,
    value: String,
}

impl FieldSelector {
    /// Reads `metadata.name=web,spec.nodeName!=a` with these fields.
    pub(super) fn parse(text: &str, fields: &[&str]) -> Result<Self, String> {
        let mut comparisons = Vec::new();
        for one in text.split(',').map(str::trim).filter(|one| !one.is_empty()) {
            let split = one.split_once("!=").map(|(field, value)| (field, false, value));
            let split = split.or_else(|| one.split_once("==").map(|(field, value)| (field, true, value)));
            let split = split.or_else(|| one.split_once('=').map(|(field, value)| (field, true, value)));
            let (field, equal, value) = split.ok_or_else(|| {
                format!("invalid field selector {one:?}: write FIELD=VALUE or FIELD!=VALUE")
            })?;
            let field = field.trim();
            if !fields.contains(&field) {
                return Err(format!("field label not supported: {field}; there are {}", fields.join(", ")));
            }
            let pointer = format!("/{}", field.replace('.', "/"));
            comparisons.push(Comparison { pointer, equal, value: value.trim().to_owned() });
        }
        Ok(Self(comparisons))
    }

    /// Whether an object's fields match; a field that is not there is the empty string, as in Kubernetes.
    pub(super) fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|one| {
            let value = object.pointer(&one.pointer).and_then(Value::as_str).unwrap_or_default();
            (value == one.value) == one.equal
        })
    }
}

#[cfg(test)]
mod tests;
