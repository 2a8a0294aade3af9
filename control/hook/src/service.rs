//! The gRPC services that virt-launcher calls: Info and Callbacks in the hook folder, DomainHookService for a `Plugin`.
//!
//! Each edit is made from what the pod says at that moment. Where KubeVirt writes `network-info` late, it is waited for
//! within the time that virt-launcher gives.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::edit::{Plan, plan};
use crate::error::{EditError, InterfaceFault, Reason};
use crate::pod::Pod;
use crate::proto::plugins::{MutateDomainRequest, MutateDomainResponse, domain_hook_service_server::DomainHookService};
use crate::proto::{info, v1alpha3};
use crate::translators::Translators;
use crate::vmi::Vmi;

/// What answers.
#[derive(Debug)]
pub struct Hook {
    pod: Pod,
    translators: Translators,
    ended: Notify,
}

/// The services' handle of a [`Hook`].
#[derive(Clone, Debug)]
pub struct Service(pub Arc<Hook>);

impl Hook {
    /// A hook for this pod.
    pub fn new(pod: Pod, translators: Translators) -> Self {
        Self { pod, translators, ended: Notify::new() }
    }

    /// Resolves when virt-launcher has said that it ends.
    pub async fn ended(&self) {
        self.ended.notified().await;
    }

    /// The translators that run.
    pub fn translators(&self) -> &Translators {
        &self.translators
    }

    /// The edited domain, when the translators that it needs serve it.
    async fn define(
        &self,
        domain: &[u8],
        vmi: &[u8],
        may_be_unused: bool,
        patience: Duration,
    ) -> Result<Vec<u8>, Status> {
        let until = Instant::now() + patience;
        let vmi = Vmi::parse(vmi).map_err(|error| refusal(&error))?;
        let plan = loop {
            match self.plan(domain, &vmi, may_be_unused) {
                Err(error) if may_come(&error.reason) && Instant::now() < until => tokio::time::sleep(POLL).await,
                result => break result.map_err(|error| refusal(&error))?,
            }
        };
        plan.notices.iter().for_each(|notice| tracing::warn!("VMI {}: {notice}", vmi.name()));
        self.translators.ensure(plan.translators, until).await.map_err(|error| {
            tracing::error!("VMI {}: {error:#}", vmi.name());
            Status::unavailable(format!("VMI {}: {error:#}", vmi.name()))
        })?;
        Ok(plan.domain)
    }

    fn plan(&self, domain: &[u8], vmi: &Vmi, may_be_unused: bool) -> Result<Plan, EditError> {
        let context = self.pod.context(may_be_unused);
        let context = context.map_err(|error| EditError { vmi: vmi.name(), reason: error.into() })?;
        plan(domain, vmi, &context)
    }
}

/// Whether waiting may help: the file is not written yet, or is just being written.
fn may_come(reason: &Reason) -> bool {
    matches!(reason, Reason::Read(_) | Reason::Interface { fault: InterfaceFault::NotInNetworkInfo, .. })
}

fn refusal(error: &dyn std::error::Error) -> Status {
    tracing::error!("{error}");
    Status::invalid_argument(error.to_string())
}

#[tonic::async_trait]
impl info::info_server::Info for Service {
    async fn info(&self, _: Request<info::InfoParams>) -> Result<Response<info::InfoResult>, Status> {
        let hook_points = ["OnDefineDomain", "Shutdown"];
        let hook_points = hook_points.map(|name| info::HookPoint { name: name.to_owned(), priority: 0 });
        Ok(Response::new(info::InfoResult {
            name: "culvert-hook".to_owned(),
            hook_points: hook_points.into(),
            versions: vec!["v1alpha3".to_owned()],
        }))
    }
}

#[tonic::async_trait]
impl v1alpha3::callbacks_server::Callbacks for Service {
    async fn on_define_domain(
        &self,
        request: Request<v1alpha3::OnDefineDomainParams>,
    ) -> Result<Response<v1alpha3::OnDefineDomainResult>, Status> {
        let v1alpha3::OnDefineDomainParams { domain_xml, vmi } = request.into_inner();
        let domain_xml = self.0.define(&domain_xml, &vmi, false, DEFINE_PATIENCE).await?;
        Ok(Response::new(v1alpha3::OnDefineDomainResult { domain_xml }))
    }

    /// Not subscribed to; whoever calls it all the same gets back what was sent.
    async fn pre_cloud_init_iso(
        &self,
        request: Request<v1alpha3::PreCloudInitIsoParams>,
    ) -> Result<Response<v1alpha3::PreCloudInitIsoResult>, Status> {
        let v1alpha3::PreCloudInitIsoParams { cloud_init_no_cloud_source, cloud_init_data, .. } = request.into_inner();
        Ok(Response::new(v1alpha3::PreCloudInitIsoResult { cloud_init_no_cloud_source, cloud_init_data }))
    }

    async fn shutdown(
        &self,
        _: Request<v1alpha3::ShutdownParams>,
    ) -> Result<Response<v1alpha3::ShutdownResult>, Status> {
        tracing::info!("virt-launcher ends");
        // The server ends when this is answered.
        self.0.ended.notify_one();
        Ok(Response::new(v1alpha3::ShutdownResult {}))
    }
}

#[tonic::async_trait]
impl DomainHookService for Service {
    async fn mutate_domain(
        &self,
        request: Request<MutateDomainRequest>,
    ) -> Result<Response<MutateDomainResponse>, Status> {
        let MutateDomainRequest { domain_type, domain, vmi, sidecar_context } = request.into_inner();
        if domain_type != "libvirt" {
            let sentence = format!("the domain is of type {domain_type:?}; this hook knows \"libvirt\"");
            return Err(Status::invalid_argument(sentence));
        }
        let context = sidecar_context.unwrap_or_default().invocation_context;
        if !["", "Boot", "MigrationSource", "MigrationTarget"].contains(&context.as_str()) {
            tracing::warn!("virt-launcher calls in an unknown context, {context:?}; the edit is the same in all");
        }
        // A plugin is called for any VMI, unless it has a condition.
        let domain = self.0.define(&domain, &vmi, true, PLUGIN_PATIENCE).await?;
        Ok(Response::new(MutateDomainResponse { domain }))
    }
}

/// How long an edit may wait for what is late: virt-launcher waits 60 seconds.
const DEFINE_PATIENCE: Duration = Duration::from_secs(45);

/// The same for a plugin, which is given 30 seconds unless its CR says otherwise.
const PLUGIN_PATIENCE: Duration = Duration::from_secs(20);

/// How often files are read that are not there yet.
const POLL: Duration = Duration::from_millis(200);
