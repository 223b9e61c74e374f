# What is out of range is refused at plan, and its variable is named.

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

run "region" {
  command = plan

  variables {
    region = "Mitte"
  }
  expect_failures = [var.region]
}

run "aws_region" {
  command = plan

  variables {
    aws_region = "Frankfurt"
  }
  expect_failures = [var.aws_region]
}

run "edges" {
  command = plan

  variables {
    edges = 51
  }
  expect_failures = [var.edges]
}

run "cores" {
  command = plan

  variables {
    cores = -1
  }
  expect_failures = [var.cores]
}

run "domain" {
  command = plan

  variables {
    domain = "no domain"
  }
  expect_failures = [var.domain]
}

run "seeds" {
  command = plan

  variables {
    seeds = ["10.0.0.1"]
  }
  expect_failures = [var.seeds]
}

run "trust_domain" {
  command = plan

  variables {
    trust_domain = "a b"
  }
  expect_failures = [var.trust_domain]
}

run "certificates" {
  command = plan

  variables {
    certificates = {}
  }
  expect_failures = [var.certificates]
}

run "api_token" {
  command = plan

  variables {
    api_token = null
  }
  expect_failures = [var.api_token]
}

run "packages" {
  command = plan

  variables {
    packages = {}
  }
  expect_failures = [var.packages]
}

run "model" {
  command = plan

  variables {
    model = null
  }
  expect_failures = [var.model]
}

run "ami" {
  command = plan

  variables {
    ami = "debian"
  }
  expect_failures = [var.ami]
}

run "instance_types" {
  command = plan

  variables {
    instance_types = { edge = "large" }
  }
  expect_failures = [var.instance_types]
}

run "core_gigabytes" {
  command = plan

  variables {
    core_gigabytes = 1
  }
  expect_failures = [var.core_gigabytes]
}

run "kms_key" {
  command = plan

  variables {
    kms_key = "alias/a"
  }
  expect_failures = [var.kms_key]
}

run "cidr" {
  command = plan

  variables {
    cidr = "10.0.0.0/28"
  }
  expect_failures = [var.cidr]
}

run "api_ranges" {
  command = plan

  variables {
    api_ranges = ["0.0.0.0/0"]
  }
  expect_failures = [var.api_ranges]
}

run "relay_ranges" {
  command = plan

  variables {
    relay_ranges = ["everywhere"]
  }
  expect_failures = [var.relay_ranges]
}

run "alarm_topic" {
  command = plan

  variables {
    alarm_topic = "ops"
  }
  expect_failures = [var.alarm_topic]
}

run "zones" {
  command = plan

  variables {
    zones = ["eu-central-1a"]
  }
  expect_failures = [var.zones]
}
