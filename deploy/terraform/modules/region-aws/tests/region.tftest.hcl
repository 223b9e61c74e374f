# What the plan of a region has, and what it refuses, without a cloud: `mock_provider` makes up what Amazon would answer.

mock_provider "aws" {
  mock_resource "aws_vpc" {
    defaults = { ipv6_cidr_block = "2001:db8:1200::/56" }
  }

  mock_resource "aws_ebs_volume" {
    defaults = { id = "vol-0123456789abcdef0", arn = "arn:aws:ec2:eu-central-1:123456789012:volume/vol-0123456789abcdef0" }
  }

  mock_resource "aws_iam_instance_profile" {
    defaults = { arn = "arn:aws:iam::123456789012:instance-profile/node" }
  }
}

variables {
  region     = "eu-central"
  aws_region = "eu-central-1"
  domain     = "mesh.example.com"
  dns        = true
  certificates = {
    edge-eu-central-1 = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:edge-1-AbCdEf"
    edge-eu-central-2 = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:edge-2-AbCdEf"
    core-eu-central-1 = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:core-1-AbCdEf"
    dns-eu-central-1  = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:dns-1-AbCdEf"
  }
  api_token = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:token-AbCdEf"
  packages = {
    edge = { url = "https://downloads.example.com/nearfield-edge.deb", sha256 = "0000000000000000000000000000000000000000000000000000000000000000" }
    core = { url = "https://downloads.example.com/nearfield-core.deb", sha256 = "0000000000000000000000000000000000000000000000000000000000000000" }
    dns  = { url = "https://downloads.example.com/nearfield-dns.deb", sha256 = "0000000000000000000000000000000000000000000000000000000000000000" }
  }
  model = { url = "https://downloads.example.com/model.bin", sha256 = "0000000000000000000000000000000000000000000000000000000000000000" }
  tags  = { bill = "speech" }
}

run "a_region" {
  command = apply

  assert {
    condition     = toset(keys(aws_autoscaling_group.node)) == toset(["edge-eu-central-1", "edge-eu-central-2", "core-eu-central-1", "dns-eu-central-1"])
    error_message = "two edges, a core, a DNS node"
  }
  assert {
    condition     = alltrue([for group in aws_autoscaling_group.node : group.min_size == 1 && group.max_size == 1])
    error_message = "an identity is one instance's"
  }
  assert {
    condition     = alltrue([for template in aws_launch_template.node : template.metadata_options[0].http_tokens == "required"])
    error_message = "IMDSv2"
  }
  assert {
    condition     = alltrue([for template in aws_launch_template.node : template.block_device_mappings[0].ebs[0].encrypted == "true"]) && alltrue([for volume in aws_ebs_volume.core : volume.encrypted && volume.final_snapshot])
    error_message = "every disk is encrypted, and a core's leaves a snapshot"
  }
  assert {
    condition     = alltrue([for policy in aws_iam_role_policy.node : !strcontains(policy.policy, "\"*\"")])
    error_message = "no right is to everything"
  }
  assert {
    condition     = alltrue([for name, policy in aws_iam_role_policy.node : [for other, arn in var.certificates : other if strcontains(policy.policy, arn)] == [name]])
    error_message = "a node reads its own certificate only"
  }
  assert {
    condition     = alltrue([for group in aws_autoscaling_group.node : alltrue([for hook in group.initial_lifecycle_hook : hook.lifecycle_transition == "autoscaling:EC2_INSTANCE_TERMINATING"])])
    error_message = "every instance drains before it ends"
  }
  assert {
    condition     = alltrue([for boot in local.boot : length(base64gzip(boot)) < 16384])
    error_message = "user data fits what Amazon takes"
  }
  assert {
    condition     = alltrue([for rule in aws_vpc_security_group_ingress_rule.door : rule.from_port == 4433 || rule.from_port == 53 || rule.from_port == 32768])
    error_message = "the API is closed unless somebody is named"
  }
  assert {
    condition     = alltrue([for template in aws_launch_template.node : template.tags["bill"] == "speech" && template.tags["nearfield:region"] == "eu-central"])
    error_message = "tags are for the bill"
  }
  assert {
    condition     = length(output.dns_addresses) == 1 && length(output.volumes) == 1
    error_message = "outputs"
  }
}

run "one_edge_alone" {
  command = plan

  variables {
    edges     = 1
    cores     = 0
    dns       = false
    api_token = null
    model     = null
    spot      = true
  }
  assert {
    condition     = length(aws_autoscaling_group.node) == 1 && length(aws_ebs_volume.core) == 0
    error_message = "one edge"
  }
}

