//! What somebody signs elsewhere, so that a gateway that takes only signed policies takes it from here: no
//! key ever comes to the console.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use bulkhead_rules::syntax::Source;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Body;
use super::policy::{FileGiven, texts};
use crate::console::Console;
use crate::console::problem::Problem;
use crate::policy_files::{PolicyFiles, short_name};
use crate::signature::manifest::Manifest;
use crate::signature::{MANIFEST_FILE, NAMESPACE, Reason};

/// What is to be signed: one of them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ManifestWanted {
    /// These texts.
    #[serde(default)]
    #[schema(max_items = 1000)]
    pub files: Option<Vec<FileGiven>>,
    /// A proposal, put in the place of what was learned before.
    #[serde(default)]
    pub proposal_id: Option<String>,
    /// An earlier version.
    #[serde(default)]
    pub version: Option<u64>,
}

/// What is signed of a policy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ManifestMade {
    /// The manifest: names and hashes of the files, when it was issued, and the policy's name. To be saved as
    /// it is, as `policy.manifest`.
    pub manifest: String,
    /// The command that signs it. What it writes, `policy.manifest.sig`, goes with the manifest into the
    /// `envelope` of `POST /policy/stage`.
    pub command: String,
}

/// Make the manifest that is to be signed
///
/// For gateways that take only signed policies. It changes nothing.
#[utoipa::path(post, path = "/policy/manifest", operation_id = "manifest", tag = "policy",
    request_body = ManifestWanted,
    responses((status = 200, description = "What is to be signed, and how", body = ManifestMade),
              (status = 404, description = "There is no such proposal or version", body = Problem,
               content_type = "application/problem+json"),
              (status = 409, description = "A name that no manifest can hold", body = Problem,
               content_type = "application/problem+json")))]
pub async fn manifest(
    State(console): State<Arc<Console>>,
    Body(ManifestWanted { files, proposal_id, version }): Body<ManifestWanted>,
) -> Result<Json<ManifestMade>, Problem> {
    let texts = texts(&console, files, version, proposal_id).await?;
    let sources = texts.files.into_iter().map(|(name, text)| Source::new(name, text));
    let mut sources: Vec<Source> = sources.collect();
    // In the order in which the gateway takes them.
    sources.sort_by_cached_key(short_name);
    let files = PolicyFiles { sources, left_out: Vec::new() };
    let name = console.settings.config.as_ref().and_then(|config| config.signatures.name.clone());
    let manifest = Manifest::of(&files, name, Timestamp::now().as_second());
    let manifest = manifest.map_err(Problem::conflict)?.to_string();
    Ok(Json(ManifestMade { manifest, command: command() }))
}

/// Says of a policy that was refused because it is not signed what to do about it here.
pub(super) fn remedy(problem: Problem) -> Problem {
    let unsigned = Reason::Unsigned.code();
    if !problem.findings.iter().any(|finding| finding.code == unsigned) {
        return problem;
    }
    problem.remedy(format!(
        "save the manifest (POST /api/v1/policy/manifest) as {MANIFEST_FILE}, sign it where the key is, \
         `{}`, and stage again with both as `envelope`",
        command()
    ))
}

fn command() -> String {
    format!("ssh-keygen -Y sign -n {NAMESPACE} -f KEY {MANIFEST_FILE}")
}
