//! The CEL rules of the schema (`x-kubernetes-validations`), compiled once.

use std::sync::LazyLock;

use kube_cel::{CompiledSchema, Validator, compile_schema};
use serde_json::Value;

use super::FieldError;
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
pub(super) fn check(kind: Kind, value: &Value, old: Option<&Value>) -> Result<(), Vec<FieldError>> {
    let Some(rules) = compiled(kind) else { return Ok(()) };
    let verdict = VALIDATOR.with(|validator| validator.validate_compiled(rules, value, old));
    verdict.map_err(|errors| {
        let told = |error: kube_cel::ValidationError| FieldError {
            path: error.field_path,
            message: error.message,
            location: None,
        };
        let mut errors: Vec<FieldError> = errors.into_vec().into_iter().map(told).collect();
        // Fields are gone through in no order.
        errors.sort_by(|one, other| one.path.cmp(&other.path));
        errors
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
