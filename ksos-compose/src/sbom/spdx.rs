//! SPDX 2.3 in JSON (spdx.github.io/spdx-spec/v2.3, and its JSON schema).
//!
//! The image is a package that contains all others; each of them contains the files that came from it. Nobody has looked
//! into the files for licences, so that none are concluded. Files carry SHA-1 beside SHA-256 because section 8.4 has it as
//! the one algorithm that must be there, and packages a verification code over it (section 7.9).

use std::collections::{BTreeMap, BTreeSet};

use ksos_formats::Digest;
use serde_json::{Value, json};

use super::{Bom, Kind, PROJECT, Package, files, lines};

const DOCUMENT: &str = "SPDXRef-DOCUMENT";
const IMAGE: &str = "SPDXRef-Image";

/// Returns the document.
pub fn document(bom: &Bom) -> Vec<u8> {
    let ids = package_ids(&bom.packages);
    let mut by_package: BTreeMap<Option<usize>, Vec<usize>> = BTreeMap::new();
    for (number, file) in bom.files.iter().enumerate() {
        by_package.entry(file.package).or_default().push(number);
    }
    let mut packages = vec![image(bom, by_package.get(&None))];
    let mut relationships = vec![relationship(DOCUMENT, "DESCRIBES", IMAGE)];
    for (number, package) in bom.packages.iter().enumerate() {
        packages.push(entry(bom, package, &ids[number], by_package.get(&Some(number))));
        // A crate is a part of its program.
        if package.kind != Kind::Crate {
            relationships.push(relationship(IMAGE, "CONTAINS", &ids[number]));
        }
        for used in &package.uses {
            let target = bom.packages.iter().position(|package| package.purl == *used);
            relationships.extend(target.map(|target| relationship(&ids[number], "STATIC_LINK", &ids[target])));
        }
    }
    let mut entries = Vec::with_capacity(bom.files.len());
    for file in &bom.files {
        let id = file_id(&file.path);
        let owner = file.package.map_or(IMAGE, |package| &ids[package]);
        relationships.push(relationship(owner, "CONTAINS", &id));
        entries.push(json!({
            "SPDXID": id,
            "fileName": format!("./{}", file.path),
            "checksums": [
                { "algorithm": "SHA1", "checksumValue": file.sha1 },
                { "algorithm": "SHA256", "checksumValue": file.sha256.hex() },
            ],
            "licenseConcluded": "NOASSERTION",
            "copyrightText": "NOASSERTION",
        }));
    }
    let lists = [
        ("packages", packages),
        ("files", entries),
        ("relationships", relationships),
        ("hasExtractedLicensingInfos", extracted(bom)),
    ];
    let content = lines(&json!({}), &lists);
    let head = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": DOCUMENT,
        "name": bom.stem(),
        // "It is a unique absolute URI" (section 6.5): the digest of what the document says makes it one.
        "documentNamespace": format!("{PROJECT}/spdx/{}-{}", bom.stem(), &Digest::of(&content).hex()[..32]),
        "creationInfo": { "created": bom.created(), "creators": [format!("Tool: ksos-compose-{}", bom.composer)] },
    });
    lines(&head, &lists)
}

fn relationship(from: &str, kind: &str, to: &str) -> Value {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

/// The image itself; it contains the files that the composer has made.
fn image(bom: &Bom, files: Option<&Vec<usize>>) -> Value {
    let mut value = json!({
        "SPDXID": IMAGE,
        "name": bom.image.name,
        "versionInfo": bom.image.version,
        "downloadLocation": "NOASSERTION",
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        // What the CycloneDX document says, too. The text of the specification (section 7.24) and the JSON schema of 2.3.1
        // write OPERATING-SYSTEM, that of 2.3 writes OPERATING_SYSTEM, and each refuses the other.
        "primaryPackagePurpose": "FIRMWARE",
    });
    analyzed(&mut value, bom, files);
    value
}

fn entry(bom: &Bom, package: &Package, id: &str, files: Option<&Vec<usize>>) -> Value {
    let Package { kind, name, version, purl, component, download, sha256, supplier, source, licence, uses: _ } =
        package;
    let mut value = json!({
        "SPDXID": id,
        "name": name,
        "downloadLocation": download.as_deref().unwrap_or("NOASSERTION"),
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": licence.as_ref().map_or("NOASSERTION", |licence| &licence.expression),
        "copyrightText": "NOASSERTION",
        "primaryPackagePurpose": match kind {
            Kind::ContainerImage => "CONTAINER",
            Kind::Program => "APPLICATION",
            Kind::Crate => "LIBRARY",
            Kind::Generic => "FILE",
            Kind::Debian => "INSTALL",
        },
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl,
        }],
        "comment": format!("component {component}"),
    });
    if let Some(version) = version {
        value["versionInfo"] = json!(version);
    }
    if let Some(supplier) = supplier {
        value["supplier"] = json!(format!("Organization: {supplier}"));
    }
    if let Some(source) = source {
        value["sourceInfo"] = json!(format!("built from source package {source}"));
    }
    if let Some(sha256) = sha256 {
        value["checksums"] = json!([{ "algorithm": "SHA256", "checksumValue": sha256.hex() }]);
    }
    analyzed(&mut value, bom, files);
    value
}

/// "A package verification code [...] shall be present if filesAnalyzed is true" (section 7.9).
fn analyzed(value: &mut Value, bom: &Bom, files: Option<&Vec<usize>>) {
    let Some(numbers) = files else {
        value["filesAnalyzed"] = json!(false);
        return;
    };
    // "Sort the SHA1 values in ascending order, concatenate, hash" (section 7.9.4).
    let mut sums: Vec<&str> = numbers.iter().map(|number| bom.files[*number].sha1.as_str()).collect();
    sums.sort_unstable();
    value["filesAnalyzed"] = json!(true);
    value["packageVerificationCode"] = json!({ "packageVerificationCodeValue": files::sha1(sums.concat().as_bytes()) });
    value["licenseInfoFromFiles"] = json!(["NOASSERTION"]);
}

/// "SPDXRef-" and "letters, numbers, . and/or -" (section 3.2), unique in the document.
fn package_ids(packages: &[Package]) -> Vec<String> {
    let clean = |text: &str| -> String {
        let keep = |character: char| character.is_ascii_alphanumeric() || character == '.' || character == '-';
        text.chars().map(|character| if keep(character) { character } else { '-' }).collect()
    };
    let mut taken = BTreeSet::new();
    packages
        .iter()
        .map(|package| {
            let version = package.version.as_deref().unwrap_or_default();
            let mut id = clean(&format!("SPDXRef-Package-{}-{version}", package.name)).trim_end_matches('-').to_owned();
            if !taken.insert(id.clone()) {
                // Two archives, or two components, may have packages of one name.
                let more = format!("{}\0{}", package.purl, package.component);
                id = format!("{id}-{}", &Digest::of(more.as_bytes()).hex()[..12]);
                taken.insert(id.clone());
            }
            id
        })
        .collect()
}

fn file_id(path: &str) -> String {
    format!("SPDXRef-File-{}", &Digest::of(path.as_bytes()).hex()[..20])
}

/// Every licence that SPDX has no identifier for.
fn extracted(bom: &Bom) -> Vec<Value> {
    let mut all: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    for package in &bom.packages {
        for (reference, name) in package.licence.iter().flat_map(|licence| &licence.references) {
            all.entry(reference).or_insert((name, &package.name));
        }
    }
    all.into_iter()
        .map(|(reference, (name, package))| {
            json!({
                "licenseId": reference,
                "name": name,
                "extractedText": format!("Licence {name:?} in usr/share/doc/{package}/copyright of the package {package}."),
            })
        })
        .collect()
}
