//! A gateway that takes only signed policies, and the console, which has no key.

use std::fs;
use std::path::Path;

use bulkhead_gateway::config::Limits;
use bulkhead_gateway::console::access::Role;
use bulkhead_gateway::policy_files::PolicyFiles;
use bulkhead_gateway::signature::manifest::Manifest;
use bulkhead_gateway::signature::{NAMESPACE, places};
use serde_json::json;
use ssh_key::private::Ed25519Keypair;
use ssh_key::{HashAlg, LineEnding, PrivateKey};

use crate::site::Site;

/// What a person does with a key that is kept elsewhere.
fn sign(manifest: &str) -> String {
    let key = PrivateKey::from(Ed25519Keypair::from_seed(&[7; 32]));
    let signature = key.sign(NAMESPACE, HashAlg::Sha512, manifest.as_bytes()).unwrap();
    signature.to_pem(LineEnding::LF).unwrap()
}

/// Signs the policy that lies there, and trusts whoever did.
fn require_signatures(folder: &Path) -> String {
    let path = folder.join("policy.yaml");
    let files = PolicyFiles::read(&path, &Limits::default()).unwrap();
    let manifest = Manifest::of(&files, Some("plant-7".to_owned()), 1_795_415_400).unwrap();
    let [beside, signature] = places(&path);
    fs::write(beside, manifest.to_string()).unwrap();
    fs::write(signature, sign(&manifest.to_string())).unwrap();
    let key = PrivateKey::from(Ed25519Keypair::from_seed(&[7; 32]));
    let public = key.public_key().to_openssh().unwrap();
    fs::write(folder.join("trusted-keys"), format!("ops {public}\n")).unwrap();
    "[signatures]\ntrusted-keys = \"trusted-keys\"\nname = \"plant-7\"\n".to_owned()
}

#[test]
fn what_was_signed_elsewhere_is_staged_and_nothing_else() {
    let site = Site::prepared(require_signatures);
    let (viewer, operator) = (site.visitor(Role::Viewer), site.visitor(Role::Operator));
    let text = site.get("/policy", &viewer).body["files"][0]["text"].as_str().unwrap().to_owned();
    let files = json!([{"name": "10-site.yaml", "text": text.replace("502", "503")}]);
    let stage = |envelope: serde_json::Value| {
        let mut wanted = json!({"reason": "CHG-8", "files": files});
        if !envelope.is_null() {
            wanted["envelope"] = envelope;
        }
        site.post("/policy/stage", &operator, wanted)
    };
    let refused = stage(json!(null));
    assert_eq!((refused.status, &refused.body["findings"][0]["code"]), (409, &json!("unsigned")));
    let remedy = refused.body["remedy"].as_str().unwrap();
    let command = "ssh-keygen -Y sign -n bulkhead-policy -f KEY policy.manifest";
    assert!(remedy.contains(command) && remedy.contains("/policy/manifest"), "{remedy}");

    let made = site.post("/policy/manifest", &operator, json!({"files": files}));
    assert_eq!((made.status, &made.body["command"]), (200, &json!(command)), "{}", made.body);
    let manifest = made.body["manifest"].as_str().unwrap();
    assert!(manifest.contains("# policy plant-7\n") && manifest.ends_with("  10-site.yaml\n"));
    let of_another = sign("# bulkhead policy manifest 1\n");
    let refused = stage(json!({"manifest": manifest, "signature": of_another}));
    assert_eq!(refused.body["findings"][0]["code"], "bad-signature", "{}", refused.body);
    assert!(refused.body["remedy"].is_null(), "{}", refused.body);
    let staged = stage(json!({"manifest": manifest, "signature": sign(manifest)}));
    assert_eq!((staged.status, &staged.body["done"]), (200, &json!(true)), "{}", staged.body);

    // The policy in force has a whole path for a name; in the manifest it is the file's alone.
    let version = site.get("/policy/history", &viewer).body["versions"][0]["number"].clone();
    let made = site.post("/policy/manifest", &operator, json!({"version": version}));
    assert_eq!(made.status, 200, "{}", made.body);
    let manifest = made.body["manifest"].as_str().unwrap();
    let envelope = json!({"manifest": manifest, "signature": sign(manifest)});
    let wanted = json!({"reason": "CHG-9", "version": version, "envelope": envelope});
    let staged = site.post("/policy/stage", &operator, wanted);
    assert_eq!(staged.status, 200, "{}", staged.body);
    for wrong in [json!({}), json!({"files": files, "version": 1}), json!({"key": "k"})] {
        assert_eq!(site.post("/policy/manifest", &operator, wrong).status, 400);
    }
    let unnameable = json!({"files": [{"name": "a\nb.yaml", "text": text}]});
    assert_eq!(site.post("/policy/manifest", &operator, unnameable).status, 400);
}
