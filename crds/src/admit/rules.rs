//! The CEL rules of the schema (`x-kubernetes-validations`), compiled once.

use std::sync::LazyLock;

use kube_cel::{CompiledSchema, ErrorKind, Validator, compile_schema};
use serde_json::Value;

use super::{FieldError, schema::Errors};
use crate::{Kind, crd};

/// The rules of a kind; a kind of `core/v1` has none.
fn compiled(kind: Kind) -> Option<&'static CompiledSchema> {
    static CONTAINER: LazyLock<CompiledSchema> =
        LazyLock::new(|| compile_schema(crd::schema(Kind::Container)));
    static DATA_CONTAINER: LazyLock<CompiledSchema> =
        LazyLock::new(|| compile_schema(crd::schema(Kind::DataContainer)));
    static VOLUME: LazyLock<CompiledSchema> = LazyLock::new(|| compile_schema(crd::schema(Kind::Volume)));
    match kind {
        Kind::Container => Some(&CONTAINER),
        Kind::DataContainer => Some(&DATA_CONTAINER),
        Kind::Volume => Some(&VOLUME),
        Kind::ConfigMap | Kind::Secret => None,
    }
}

thread_local! {
    static VALIDATOR: Validator = Validator::new();
}

/// Evaluates all rules on an object that the schema accepts; those with `oldSelf` only when there is an old one.
pub(super) fn check(kind: Kind, value: &Value, old: Option<&Value>, errors: &mut Errors) {
    let Some(rules) = compiled(kind) else { return };
    let verdict = VALIDATOR.with(|validator| validator.validate_compiled(rules, value, old));
    let mut found = verdict.err().map_or_else(Vec::new, kube_cel::ValidationErrors::into_vec);
    // Fields are gone through in no order.
    found.sort_by(|one, other| one.field_path.cmp(&other.field_path));
    for error in found {
        let message = match error.kind {
            // It compares what is not even an amount or a duration, which is told at that place.
            ErrorKind::EvaluationError => match message_of(crd::schema(kind), &error.rule) {
                Some(message) => format!("cannot be checked before its values are right: {message}"),
                None => error.message,
            },
            _ => error.message,
        };
        errors.add(FieldError { path: error.field_path, message, location: None });
    }
}

/// What a rule says when it does not hold.
fn message_of<'a>(schema: &'a Value, rule: &str) -> Option<&'a str> {
    let rules = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
    let own = rules.filter(|it| it["rule"] == rule).find_map(|it| it["message"].as_str());
    own.or_else(|| {
        let properties = schema["properties"].as_object().into_iter().flatten().map(|(_, child)| child);
        properties.chain(schema.get("items")).find_map(|child| message_of(child, rule))
    })
}

/// Compiles the rules of a kind.
pub(super) fn prepare(kind: Kind) {
    compiled(kind);
}

/// Rules that do not compile, for a test.
#[cfg(test)]
pub(super) fn broken(kind: Kind) -> Vec<String> {
    compiled(kind)
        .into_iter()
        .flat_map(|rules| rules.compilation_errors())
        .map(|e| format!("{e:?}"))
        .collect()
}
