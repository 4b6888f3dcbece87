//! The example of a CronJob that installs updates.

use ksos_tests::repository;
use serde_json::Value;

#[test]
fn the_cron_job_calls_the_node_as_its_command_is_called() {
    let text = std::fs::read_to_string(repository().join("examples/update-cronjob.yaml")).expect("there");
    let job: Value = serde_saphyr::from_str(&text).expect("YAML");
    assert_eq!((&job["apiVersion"], &job["kind"]), (&"batch/v1".into(), &"CronJob".into()));
    let fields: Vec<&str> = job["spec"]["schedule"].as_str().expect("a schedule").split(' ').collect();
    assert!(fields.len() == 5 && fields.iter().all(|field| field.parse::<u8>().is_ok() || *field == "*"), "{fields:?}");
    // The restart ends the pod in the middle: nothing may start it again for that.
    assert_eq!(job["spec"]["concurrencyPolicy"], "Forbid");
    assert_eq!(job["spec"]["jobTemplate"]["spec"]["backoffLimit"], 0);
    let pod = &job["spec"]["jobTemplate"]["spec"]["template"]["spec"];
    assert_eq!((&pod["restartPolicy"], &pod["hostPID"]), (&"Never".into(), &true.into()));
    let containers = pod["containers"].as_array().expect("a list");
    let [container] = containers.as_slice() else { panic!("one container: {containers:?}") };
    assert_eq!(container["securityContext"]["privileged"], true);
    let words: Vec<&str> =
        container["command"].as_array().expect("a list").iter().map(|word| word.as_str().expect("text")).collect();
    let (enter, command) = words.split_at(words.iter().position(|word| *word == "--").expect("`--`") + 1);
    assert_eq!(enter, ["nsenter", "-t", "1", "-m", "-u", "-i", "-n", "--"]);
    let (program, arguments) = command.split_first().expect("a command");
    assert_eq!(*program, "/usr/bin/kubesolo-update");
    // As the program itself reads them.
    let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
    ksos_runtime::update::command::Arguments::parse(&arguments).expect("its arguments");
    let documentation = std::fs::read_to_string(repository().join("docs/updates.md")).expect("there");
    assert!(documentation.contains("(../examples/update-cronjob.yaml)"), "the documentation names it");
}
