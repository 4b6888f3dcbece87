//! The JSON Schema of the document, made of the tables that the reader uses. For editors: what the reader checks beyond
//! forms (gateways, links, base64) it does not say.

use serde_json::{Map, Value, json};

use super::forms::Form;
use super::keys::{Key, Kind, Table};
use super::network::{SIMPLE, VERSION2};
use super::tables::DOCUMENT;

/// Returns the JSON Schema (draft 2020-12) of the document. Deterministic.
pub fn json_schema() -> Value {
    let mut schema = Map::new();
    let id = "https://github.com/portainer/kubesolo-os/raw/main/docs/schema/config.schema.json";
    schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("$id".to_owned(), json!(id));
    schema.insert("title".to_owned(), json!("KubeSolo OS node configuration"));
    let about = "First-boot configuration of a KubeSolo OS node: cloud-init.yaml, or user-data.";
    schema.insert("description".to_owned(), json!(about));
    schema.extend(object(&DOCUMENT));
    Value::Object(schema)
}

fn object(table: &Table) -> Map<String, Value> {
    let mut properties = Map::new();
    for key in table.keys {
        properties.insert(key.name.to_owned(), property(key));
        for alias in key.aliases {
            let mut other = property(key);
            other["description"] = json!(format!("Another spelling of `{}`.", key.name));
            properties.insert((*alias).to_owned(), other);
        }
    }
    for name in table.unsupported {
        let ignored = json!({ "description": "Not supported: ignored, with a warning.", "deprecated": true });
        properties.insert((*name).to_owned(), ignored);
    }
    let mut schema = Map::new();
    schema.insert("type".to_owned(), json!("object"));
    schema.insert("properties".to_owned(), Value::Object(properties));
    if !table.required.is_empty() {
        schema.insert("required".to_owned(), json!(table.required));
    }
    schema.insert("additionalProperties".to_owned(), json!(false));
    schema
}

fn property(key: &Key) -> Value {
    let mut schema = Map::new();
    schema.insert("description".to_owned(), json!(key.about));
    schema.extend(value(&key.kind));
    Value::Object(schema)
}

fn value(kind: &Kind) -> Map<String, Value> {
    let schema = match kind {
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Text(form) | Kind::Secret(form) => return text(form),
        Kind::Choice(choices) => json!({ "enum": choices }),
        Kind::Duration => json!({ "type": ["integer", "string"], "minimum": 0, "pattern": "^(0|[1-9][0-9]*)[smhd]?$" }),
        Kind::Rate => json!({
            "type": ["integer", "string"], "minimum": 1024, "pattern": "^[1-9][0-9]*( ?([kMG]B|[KMG]iB)(/s)?)?$"
        }),
        Kind::Permissions => json!({ "type": "string", "pattern": "^(0o)?[0-7]{1,5}$" }),
        Kind::Texts(form) => json!({ "anyOf": [
            { "type": "array", "items": text(form) },
            { "type": "string", "description": "Texts with commas between." },
        ] }),
        Kind::List(inner) => json!({ "type": "array", "items": value(inner) }),
        Kind::Section(table) => return object(table),
        Kind::Map(form, inner) => {
            json!({ "type": "object", "propertyNames": text(form), "additionalProperties": value(inner) })
        }
        Kind::Network => json!({ "anyOf": [object(&SIMPLE), object(&VERSION2)] }),
    };
    match schema {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn text(form: &Form) -> Map<String, Value> {
    let mut schema = Map::new();
    schema.insert("type".to_owned(), json!("string"));
    if let Some(pattern) = form.pattern {
        schema.insert("pattern".to_owned(), json!(pattern));
    }
    schema
}
