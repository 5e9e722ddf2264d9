//! ConfigMaps and Secrets, as kubectl describes them: of a Secret only how long its values are.

use serde_json::Value;
use stower_crds::{ConfigData, ConfigMap, Secret, config_map_data, secret_data};

use crate::{api::REDACTED_ANNOTATION, cli::table::printable};

pub(super) fn config_map(object: &Value) -> String {
    let Ok(map) = serde_json::from_value::<ConfigMap>(object.clone()) else {
        return "\nData:  <cannot be read>\n\n".to_owned();
    };
    let mut out = immutable(object);
    out.push_str("\nData\n====\n");
    for (key, text) in map.data.iter().flatten() {
        let lines = text.lines().map(|line| format!("{}\n", printable(line))).collect::<String>();
        out.push_str(&format!("{}:\n----\n{lines}\n", printable(key)));
    }
    let binary: ConfigData = config_map_data(&map)
        .into_iter()
        .filter(|(key, _)| map.binary_data.as_ref().is_some_and(|data| data.contains_key(key)))
        .collect();
    if !binary.is_empty() {
        out.push_str("\nBinaryData\n====\n");
        out.push_str(&sizes(&binary));
    }
    out.push('\n');
    out
}

pub(super) fn secret(object: &Value) -> String {
    let kind = super::str_of(&object["type"]);
    let mut out = format!("{}\nType:  {}\n\nData\n====\n", immutable(object), printable(&kind));
    if !object["metadata"]["annotations"][REDACTED_ANNOTATION].is_null() {
        for (key, _) in object["data"].as_object().into_iter().flatten() {
            out.push_str(&format!("{}:  <only root may see it>\n", printable(key)));
        }
    } else if let Ok(secret) = serde_json::from_value::<Secret>(object.clone()) {
        out.push_str(&sizes(&secret_data(&secret)));
    }
    out.push('\n');
    out
}

fn immutable(object: &Value) -> String {
    if object["immutable"] == true { "Immutable:    true\n".to_owned() } else { String::new() }
}

fn sizes(data: &ConfigData) -> String {
    let longest = data.keys().map(String::len).max().unwrap_or(0) + 3;
    let line = |(key, value): (&String, &Vec<u8>)| {
        let key = format!("{}:", printable(key));
        format!("{key:<longest$}{} bytes\n", value.len())
    };
    data.iter().map(line).collect()
}
