//! `culvertctl pod list`, `show`, `add` and `del`.

use anyhow::{Result, anyhow};
use culvert_api::v1;
use serde::Serialize;

use crate::arguments::{Format, PodCommand};
use crate::change::outcome;
use crate::client::{Client, refusal};
use crate::output::Align::{Left, Right};
use crate::output::{or_dash, origin, pairs, present, table};

#[derive(Serialize)]
struct Pod {
    name: String,
    folders: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    netns: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tap: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    helped: Vec<String>,
    problems: Vec<String>,
    origin: &'static str,
}

/// Does what the command says.
pub async fn run(client: &mut Client, command: PodCommand, format: Format) -> Result<String> {
    match command {
        PodCommand::List => list(client, format).await,
        PodCommand::Show { pod } => show(client, &pod, format).await,
        PodCommand::Add { pod, folders, netns, tap, description } => {
            let spec = v1::PodSpec { folders, netns, tap, description };
            let request = v1::AddPodRequest { name: pod.clone(), pod: Some(spec) };
            outcome(client.add_pod(request).await, &format!("pod {pod} added"), format)
        }
        PodCommand::Del { pod } => {
            let request = v1::RemoveRequest { name: pod.clone() };
            outcome(client.remove_pod(request).await, &format!("pod {pod} removed"), format)
        }
    }
}

async fn list(client: &mut Client, format: Format) -> Result<String> {
    let pods = ask(client).await?;
    if let Some(data) = format.data() {
        return data.text(&pods);
    }
    let columns = [
        ("POD", Left),
        ("FOLDERS", Right),
        ("TAP", Left),
        ("HELPED", Right),
        ("PROBLEMS", Right),
        ("ORIGIN", Left),
        ("DESCRIPTION", Left),
    ];
    let dash = |text: Option<String>| or_dash(&text.unwrap_or_default());
    let rows = pods.into_iter().map(|pod| {
        let counts = [&pod.folders, &pod.helped, &pod.problems].map(|list| list.len().to_string());
        let [folders, helped, problems] = counts;
        vec![pod.name, folders, dash(pod.tap), helped, problems, pod.origin.into(), dash(pod.description)]
    });
    Ok(table(&columns, rows))
}

async fn show(client: &mut Client, name: &str, format: Format) -> Result<String> {
    let missing = || anyhow!("there is no pod {}; `culvertctl pod list` shows the pods", name.escape_debug());
    let pod = ask(client).await?.into_iter().find(|pod| pod.name == name).ok_or_else(missing)?;
    if let Some(data) = format.data() {
        return data.text(&pod);
    }
    let dash = |text: &Option<String>| or_dash(text.as_deref().unwrap_or_default());
    let mut text = pairs([
        ("name", pod.name.clone()),
        ("folders", pod.folders.join(", ")),
        ("namespace", dash(&pod.netns)),
        ("tap", dash(&pod.tap)),
        ("description", dash(&pod.description)),
        ("helped", or_dash(&pod.helped.join(", "))),
        ("origin", pod.origin.to_owned()),
    ]);
    text.extend(pod.problems.iter().map(|problem| format!("\nwarning: {problem}\n")));
    Ok(text)
}

async fn ask(client: &mut Client) -> Result<Vec<Pod>> {
    let answer = client.list_pods(v1::ListPodsRequest {}).await.map_err(|status| refusal(&status))?;
    Ok(answer.into_inner().pods.into_iter().map(Pod::from).collect())
}

impl From<v1::Pod> for Pod {
    fn from(pod: v1::Pod) -> Self {
        let origin = origin(pod.origin());
        let v1::Pod { name, folders, netns, tap, description, helped, problems, .. } = pod;
        Self {
            name,
            folders,
            netns: present(netns),
            tap: present(tap),
            description: present(description),
            helped,
            problems,
            origin,
        }
    }
}
