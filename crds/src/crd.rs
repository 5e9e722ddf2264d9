//! The CustomResourceDefinitions, as YAML.

use kube::CustomResourceExt;

/// All CustomResourceDefinitions, one YAML document each, keys in the order of the type's fields.
pub fn crd_yaml() -> String {
    crate::to_yaml(&crate::Container::crd())
}
