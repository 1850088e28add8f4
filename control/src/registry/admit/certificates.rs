//! Nobody becomes a master of the cluster by a certificate that they ask for.
//!
//! Source: k8s.io/kubernetes/plugin/pkg/admission/certificates/subjectrestriction.

use oarlock_api::catalogue::CERTIFICATE_SIGNING_REQUESTS;
use oarlock_api::status::Status;
use oarlock_api::{certificates, meta};
use serde_json::Value;

use crate::auth::MASTERS;

pub(super) fn restrict(request: &Value) -> Result<(), Status> {
    if certificates::signer_name(request) != certificates::CLIENT {
        return Ok(());
    }
    // What cannot be read is refused by validation.
    let Ok(asked) = certificates::pem_of(request).and_then(|pem| certificates::read(&pem)) else {
        return Ok(());
    };
    if asked.organizations.iter().any(|group| group == MASTERS) {
        let why = format!("use of {} signer with {MASTERS} group is not allowed", certificates::CLIENT);
        return Err(Status::forbidden(&CERTIFICATE_SIGNING_REQUESTS, meta::name(request), &why));
    }
    Ok(())
}
