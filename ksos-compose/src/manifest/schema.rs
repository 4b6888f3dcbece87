//! The JSON Schema, generated from the types: one of a merged manifest, which the validator applies last, and one of
//! a manifest file, which is published, which editors use, and which the validator applies to each file.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use schemars::Schema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::types::Manifest;

/// The schema of files and the one of merged manifests, made once.
pub(super) static SCHEMAS: LazyLock<(Value, Value)> = LazyLock::new(|| {
    let merged = merged();
    (file_schema(&merged), merged)
});

/// Removes the defaults of a schema's properties: keys of which one is chosen have none.
pub(super) fn drop_defaults(schema: &mut Schema) {
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    for property in properties.into_iter().flat_map(Map::values_mut).filter_map(Value::as_object_mut) {
        property.remove("default");
    }
}

/// Returns the schema of a merged manifest: everything that is required must be there.
pub(super) fn merged() -> Value {
    let generator = SchemaSettings::draft2020_12().for_deserialize().into_generator();
    let mut schema = generator.into_root_schema_for::<Manifest>().to_value();
    tidy(&mut schema);
    schema
}

/// Returns the JSON Schema (draft 2020-12) of a manifest file. Deterministic; `ksos-compose schema` prints it.
///
/// A file may state any part of a manifest, for it may extend another one: so nothing is required outside lists, a
/// list of strings may be a change of the inherited list, and `extends` and `arch` are there.
pub fn schema() -> Value {
    SCHEMAS.0.clone()
}

/// Returns [`schema`] as the text that is published: `docs/schema/manifest.schema.json`, byte for byte.
pub fn schema_text() -> String {
    format!("{:#}\n", SCHEMAS.0)
}

/// Makes the file schema from the merged one.
fn file_schema(merged: &Value) -> Value {
    let mut schema = merged.clone();
    let whole = definitions_in_lists(&schema);
    let definitions = schema.get_mut("$defs").and_then(Value::as_object_mut);
    for (name, definition) in definitions.into_iter().flatten() {
        if !whole.contains(name) {
            relax(definition);
        }
    }
    relax(&mut schema);
    add_file_keys(&mut schema);
    let mut document = Map::new();
    document.insert("$schema".to_owned(), schema["$schema"].take());
    let id = "https://github.com/portainer/kubesolo-os/raw/main/docs/schema/manifest.schema.json";
    document.insert("$id".to_owned(), json!(id));
    document.insert("title".to_owned(), json!("KubeSolo OS image manifest"));
    document.insert(
        "description".to_owned(),
        json!("A manifest file of ksos-compose: an image, or a part of one that other manifest files extend."),
    );
    for (key, value) in schema.as_object_mut().map(std::mem::take).into_iter().flatten() {
        document.entry(key).or_insert(value);
    }
    Value::Object(document)
}

/// Walks all schemas below and including `schema`, parents first.
fn visit(schema: &mut Value, change: &mut dyn FnMut(&mut Map<String, Value>)) {
    let Some(object) = schema.as_object_mut() else { return };
    change(object);
    for (keyword, value) in object.iter_mut() {
        match (keyword.as_str(), value) {
            ("properties" | "patternProperties" | "$defs", Value::Object(schemas)) => {
                schemas.values_mut().for_each(|schema| visit(schema, change));
            }
            ("oneOf" | "anyOf" | "allOf", Value::Array(schemas)) => {
                schemas.iter_mut().for_each(|schema| visit(schema, change));
            }
            ("items" | "additionalProperties", schema) => visit(schema, change),
            _ => {}
        }
    }
}

/// Makes the generated schema plainer: properties beside alternatives go into each of them, objects with known
/// properties admit no others, and empty defaults go.
fn tidy(schema: &mut Value) {
    visit(schema, &mut |object| {
        if object.get("default").is_some_and(Value::is_null) {
            object.remove("default");
        }
        object.remove("unevaluatedProperties");
        object.remove("writeOnly");
        distribute(object);
        if object.contains_key("properties") {
            object.insert("additionalProperties".to_owned(), json!(false));
        }
    });
}

/// Moves `properties` and `required` that stand beside `oneOf` into each of its branches.
fn distribute(object: &mut Map<String, Value>) {
    if !object.contains_key("oneOf") || !object.contains_key("properties") {
        return;
    }
    let shared = object.remove("properties");
    object.remove("additionalProperties");
    let required = object.remove("required");
    for branch in object.get_mut("oneOf").and_then(Value::as_array_mut).into_iter().flatten() {
        let pairs = shared.as_ref().and_then(Value::as_object).into_iter().flatten();
        let properties = branch.get_mut("properties").and_then(Value::as_object_mut);
        properties.into_iter().for_each(|map| map.extend(pairs.clone().map(|(k, v)| (k.clone(), v.clone()))));
        let names = required.as_ref().and_then(Value::as_array).cloned().unwrap_or_default();
        branch
            .get_mut("required")
            .and_then(Value::as_array_mut)
            .into_iter()
            .for_each(|list| list.extend(names.clone()));
    }
}

/// Names of the definitions that are used as items of lists: lists are not merged, so their items are whole.
fn definitions_in_lists(schema: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    visit(&mut schema.clone(), &mut |object| {
        let reference = object.get("items").and_then(|items| items["$ref"].as_str());
        names.extend(reference.and_then(|reference| reference.strip_prefix("#/$defs/")).map(str::to_owned));
    });
    names
}

/// Changes a schema of something whole into one of a part of it: nothing required, lists of strings may be changes.
fn relax(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    object.remove("required");
    if object.get("properties").is_some() && object.contains_key("minProperties") {
        object.remove("minProperties");
    }
    if let Some(branches) = object.remove("oneOf") {
        let tagged = branches[0]["properties"].is_object();
        object.insert(if tagged { "anyOf" } else { "oneOf" }.to_owned(), branches);
    }
    for (keyword, value) in object.iter_mut() {
        match (keyword.as_str(), value) {
            ("properties", Value::Object(schemas)) => schemas.values_mut().for_each(relax),
            ("anyOf", Value::Array(schemas)) => schemas.iter_mut().for_each(relax),
            ("additionalProperties", schema) => relax(schema),
            _ => {}
        }
    }
    if object.get("items").is_some_and(is_text) {
        *object = with_list_change(std::mem::take(object));
    }
}

/// Says whether a schema is one of strings: plain, or a choice of constants.
fn is_text(schema: &Value) -> bool {
    let choices = schema["oneOf"].as_array();
    schema["type"] == "string" || choices.is_some_and(|choices| choices.iter().all(|choice| choice["type"] == "string"))
}

/// Makes `list` or `{ add = list, remove = list }` of `list`.
fn with_list_change(mut list: Map<String, Value>) -> Map<String, Value> {
    let mut outer = Map::new();
    for keyword in ["title", "description", "default"] {
        outer.extend(list.remove(keyword).map(|value| (keyword.to_owned(), value)));
    }
    let mut change = list.clone();
    change.remove("minItems");
    change.insert("description".to_owned(), json!("Items put behind those of the inherited list."));
    let change = json!({
        "type": "object",
        "description": "Changes the inherited list.",
        "properties": {
            "add": change,
            "remove": {
                "type": "array",
                "description": "Items taken out of the inherited list.",
                "items": { "type": "string" }
            }
        },
        "minProperties": 1,
        "additionalProperties": false
    });
    outer.insert("anyOf".to_owned(), json!([list, change]));
    outer
}

/// Adds `extends` and `arch`.
fn add_file_keys(schema: &mut Value) {
    let properties = schema["properties"].clone();
    let mut image = schema["$defs"]["Image"].clone();
    image["properties"].as_object_mut().map(|keys| keys.remove("arch"));
    schema["$defs"]["ImageOverlay"] = image;
    let mut overlay = json!({
        "description": "Changes for one architecture, merged over the manifest like a file that extends it.",
        "type": "object",
        "properties": properties,
        "additionalProperties": false
    });
    overlay["properties"]["image"]["$ref"] = json!("#/$defs/ImageOverlay");
    schema["$defs"]["ArchOverlay"] = overlay;
    let path = json!({ "type": "string", "minLength": 1 });
    let mut keys = Map::new();
    keys.insert(
        "extends".to_owned(),
        json!({
            "description": "Manifest files that this one extends, relative to it. A later one overrides an earlier one; this file overrides all of them.",
            "anyOf": [path, { "type": "array", "items": path, "minItems": 1 }]
        }),
    );
    keys.insert(
        "arch".to_owned(),
        json!({
            "description": "Changes for one architecture, merged over the manifest when it is built for it.",
            "type": "object",
            "properties": {
                "x86_64": { "$ref": "#/$defs/ArchOverlay" },
                "arm64": { "$ref": "#/$defs/ArchOverlay" }
            },
            "additionalProperties": false
        }),
    );
    if let Some(properties) = schema["properties"].as_object_mut() {
        keys.extend(std::mem::take(properties));
        *properties = keys;
    }
}
