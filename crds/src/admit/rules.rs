//! The CEL rules of the schema (`x-kubernetes-validations`), compiled once.

use std::sync::LazyLock;

use kube_cel::{CompiledSchema, Validator, compile_schema};
use serde_json::Value;

use super::FieldError;
use crate::{Kind, crd};

/// The rules of a kind.
fn compiled(kind: Kind) -> &'static CompiledSchema {
    static CONTAINER: LazyLock<CompiledSchema> =
        LazyLock::new(|| compile_schema(crd::schema(Kind::Container)));
    match kind {
        Kind::Container => &CONTAINER,
    }
}

thread_local! {
    static VALIDATOR: Validator = Validator::new();
}

/// Evaluates all rules on an object that the schema accepts; those with `oldSelf` only when there is an old one.
pub(super) fn check(kind: Kind, value: &Value, old: Option<&Value>) -> Result<(), Vec<FieldError>> {
    let verdict = VALIDATOR.with(|validator| validator.validate_compiled(compiled(kind), value, old));
    verdict.map_err(|errors| {
        errors
            .into_vec()
            .into_iter()
            .map(|error| FieldError { path: error.field_path, message: error.message, location: None })
            .collect()
    })
}

/// Compiles the rules of a kind.
pub(super) fn prepare(kind: Kind) {
    compiled(kind);
}

/// Rules that do not compile, for a test.
#[cfg(test)]
pub(super) fn broken(kind: Kind) -> Vec<String> {
    compiled(kind).compilation_errors().iter().map(|error| format!("{error:?}")).collect()
}
