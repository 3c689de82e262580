//! The web application, embedded at build time; a page that says how to build it, where it was not.

use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

include!(concat!(env!("OUT_DIR"), "/console_assets.rs"));

/// What is shown where the application was not built.
const MISSING: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
    <title>Bulkhead console</title></head><body><h1>Bulkhead console</h1><p>This binary was built without \
    the web application. Build it, then the binary again:</p><pre>cd pipeline/console-app &amp;&amp; npm ci \
    &amp;&amp; npm run build\ncargo build --release -p bulkhead-gateway</pre><p>The API is there: \
    <a href=\"/api/v1/health\">/api/v1/health</a>.</p></body></html>";

/// The file at a path of the application; pages that it makes itself get its first one.
pub(super) async fn asset(uri: Uri, headers: HeaderMap) -> Response {
    let path = uri.path().trim_start_matches('/');
    let found = ASSETS.iter().find(|asset| asset.path == path && !path.is_empty());
    // The application's own routes have no dot in their last part; what is missing has.
    let is_page = !path.rsplit('/').next().unwrap_or_default().contains('.');
    match found.or_else(|| ASSETS.iter().find(|asset| is_page && asset.path == "index.html")) {
        Some(asset) => served(asset, &headers),
        None if is_page => {
            let kind = HeaderValue::from_static("text/html; charset=utf-8");
            ([(header::CONTENT_TYPE, kind)], MISSING).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Whether the application was built.
pub(super) fn are_there() -> bool {
    !ASSETS.is_empty()
}

/// A file of the application.
struct Asset {
    path: &'static str,
    kind: &'static str,
    /// In quotes, as a header has it.
    tag: &'static str,
    bytes: &'static [u8],
    /// The same compressed, where that is shorter.
    gzip: Option<&'static [u8]>,
}

fn served(asset: &Asset, headers: &HeaderMap) -> Response {
    let has = |name: header::HeaderName, text: &str| {
        headers.get(name).and_then(|value| value.to_str().ok()).is_some_and(|v| v.contains(text))
    };
    let mut response = if has(header::IF_NONE_MATCH, asset.tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        match asset.gzip.filter(|_| has(header::ACCEPT_ENCODING, "gzip")) {
            Some(bytes) => ([(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"))], bytes)
                .into_response(),
            None => asset.bytes.into_response(),
        }
    };
    let set = response.headers_mut();
    set.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.kind));
    set.insert(header::ETAG, HeaderValue::from_static(asset.tag));
    set.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    // Vite puts a hash of the content into the names of what lies below assets/.
    let caching = match asset.path.starts_with("assets/") {
        true => "public, max-age=31536000, immutable",
        false => "no-cache",
    };
    set.insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    response
}
