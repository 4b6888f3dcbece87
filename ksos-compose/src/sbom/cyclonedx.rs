//! CycloneDX 1.6 in JSON (cyclonedx.org/docs/1.6/json).
//!
//! The image is the `metadata.component`; packages are components beside each other. The files of a package are the
//! occurrences of its evidence, not components of their own, which programs that read the document would take for
//! thousands of packages.

use std::collections::{BTreeMap, BTreeSet};

use ksos_formats::Digest;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Bom, Kind, PROJECT, Package, lines};

/// Returns the document.
pub fn document(bom: &Bom) -> Vec<u8> {
    let image = format!("{}@{}", bom.image.name, bom.image.version);
    let refs = references(&bom.packages);
    let mut occurrences: BTreeMap<usize, Vec<Value>> = BTreeMap::new();
    for file in &bom.files {
        if let Some(package) = file.package {
            let occurrence = json!({ "location": format!("/{}", file.path), "additionalContext": format!("sha256:{}", file.sha256) });
            occurrences.entry(package).or_default().push(occurrence);
        }
    }
    let mut components: Vec<Value> = Vec::new();
    if let Some((name, version)) = &bom.distribution {
        // By which vulnerability scanners know whose packages these are.
        components.push(json!({
            "type": "operating-system", "bom-ref": format!("os:{name}-{version}"), "name": name, "version": version,
        }));
    }
    for (number, package) in bom.packages.iter().enumerate() {
        components.push(component(package, &refs[number], occurrences.remove(&number)));
    }
    let direct: Vec<&String> =
        bom.packages.iter().zip(&refs).filter(|(package, _)| package.kind != Kind::Crate).map(|(_, id)| id).collect();
    let mut dependencies = vec![json!({ "ref": image, "dependsOn": direct })];
    for (package, id) in bom.packages.iter().zip(&refs).filter(|(package, _)| !package.uses.is_empty()) {
        let find = |purl: &String| bom.packages.iter().position(|package| package.purl == *purl);
        let used: BTreeSet<&String> = package.uses.iter().filter_map(find).map(|target| &refs[target]).collect();
        dependencies.push(json!({ "ref": id, "dependsOn": used }));
    }
    let metadata = json!({
        "timestamp": bom.created(),
        "tools": { "components": [{ "type": "application", "name": "ksos-compose", "version": bom.composer }] },
        "component": {
            "type": "firmware", "bom-ref": image, "name": bom.image.name, "version": bom.image.version,
            "properties": [{ "name": "ksos:arch", "value": bom.image.arch.name() }],
        },
    });
    let lists = [("components", components), ("dependencies", dependencies)];
    let content = lines(&metadata, &lists);
    // A name of its own space, so that the number is that of the content.
    let space = Uuid::new_v5(&Uuid::NAMESPACE_URL, PROJECT.as_bytes());
    let serial = Uuid::new_v5(&space, Digest::of(&content).hex().as_bytes());
    let head = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": format!("urn:uuid:{serial}"),
        "version": 1,
        "metadata": metadata,
    });
    lines(&head, &lists)
}

fn component(package: &Package, id: &str, occurrences: Option<Vec<Value>>) -> Value {
    let Package { kind, name, version, purl, component, download, sha256, supplier, source, licence, uses: _ } =
        package;
    let mut value = json!({
        "type": match kind {
            Kind::Debian | Kind::Crate => "library",
            Kind::Generic => "file",
            Kind::ContainerImage => "container",
            Kind::Program => "application",
        },
        "bom-ref": id,
        "name": name,
        "purl": purl,
    });
    let mut properties = vec![json!({ "name": "ksos:component", "value": component })];
    properties.extend(source.iter().map(|source| json!({ "name": "ksos:source-package", "value": source })));
    value["properties"] = Value::from(properties);
    if let Some(version) = version {
        value["version"] = json!(version);
    }
    if let Some(supplier) = supplier {
        value["supplier"] = json!({ "name": supplier });
    }
    if let Some(sha256) = sha256 {
        value["hashes"] = json!([{ "alg": "SHA-256", "content": sha256.hex() }]);
    }
    if let Some(licence) = licence {
        value["licenses"] = json!([{ "expression": licence.expression }]);
    }
    if let Some(download) = download {
        value["externalReferences"] = json!([{ "type": "distribution", "url": download }]);
    }
    if let Some(occurrences) = occurrences {
        value["evidence"] = json!({ "occurrences": occurrences });
    }
    value
}

/// "bom-ref [...] must be unique within the BOM": the package URL, and the component where that is not enough.
fn references(packages: &[Package]) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let mut unique = |package: &Package| {
        let plain = package.purl.clone();
        if taken.insert(plain.clone()) { plain } else { format!("{plain}#{}", package.component) }
    };
    packages.iter().map(&mut unique).collect()
}
