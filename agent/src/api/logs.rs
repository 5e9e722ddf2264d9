//! stub
use super::{Api, query::Params, status::Refusal};
use axum::extract::{Path, State};
use axum::response::Response;
pub(super) async fn read(
    State(_api): State<Api>,
    Path(_path): Path<(String, String, String)>,
    _params: Params,
) -> Result<Response, Refusal> {
    Err(Refusal::bad_request("no"))
}
