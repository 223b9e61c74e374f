# One region of a mesh on Amazon's cloud: edges and cores with public addresses, and a DNS node in some of the regions.
#
# Each node is a scaling group of one. So Amazon replaces one that dies, and its identity, certificate, disk and rights are its
# alone. A group of many would need nodes that enrol by themselves, which they cannot yet.

terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.0, < 7.0"
    }
  }
}

data "aws_ami" "debian" {
  count       = var.ami == null ? 1 : 0
  region      = var.aws_region
  most_recent = true
  owners      = ["136693071363"] # Debian's: https://wiki.debian.org/Cloud/AmazonEC2Image

  filter {
    name   = "name"
    values = ["debian-12-amd64-*"]
  }
}

locals {
  roles = concat(
    [for n in range(var.edges) : { role = "edge", name = "edge-${var.region}-${n + 1}" }],
    [for n in range(var.cores) : { role = "core", name = "core-${var.region}-${n + 1}" }],
    [for n in range(var.dns ? 1 : 0) : { role = "dns", name = "dns-${var.region}-1" }],
  )
  # A node stays in its zone: so does a core's disk.
  nodes = {
    for node in local.roles : node.name => {
      role = node.role
      zone = (tonumber(regex("[0-9]+$", node.name)) - 1) % 2
    }
  }
  cores = { for name, node in local.nodes : name => node if node.role == "core" }
  names = { for name, node in local.nodes : name => node if node.role == "dns" }
  tags  = merge(var.tags, { "nearfield:region" = var.region })

  # What a node may take of its own: until a new one is up, the old one's words are safe at the standby.
  drain_seconds = { edge = 100, core = 60, dns = 10 }
}

resource "aws_launch_template" "node" {
  #checkov:skip=CKV_AWS_88:relays, callers and other regions reach nodes at their own addresses; the security group says by which ports
  for_each = local.nodes
  region   = var.aws_region

  name_prefix            = "nearfield-${each.key}-"
  image_id               = var.ami == null ? data.aws_ami.debian[0].id : var.ami
  instance_type          = var.instance_types[each.value.role]
  update_default_version = true
  user_data              = base64gzip(local.boot[each.key])
  tags                   = merge(local.tags, { Name = each.key })

  iam_instance_profile {
    arn = aws_iam_instance_profile.node[each.key].arn
  }

  # IMDSv2 only, and for the machine itself only.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
    http_protocol_ipv6          = "disabled"
    instance_metadata_tags      = "disabled"
  }

  network_interfaces {
    associate_public_ip_address = true
    ipv6_address_count          = 1
    security_groups             = [aws_security_group.node[each.value.role].id]
    delete_on_termination       = true
  }

  block_device_mappings {
    device_name = "/dev/xvda"

    ebs {
      volume_type           = "gp3"
      volume_size           = 16
      encrypted             = true
      kms_key_id            = var.kms_key
      delete_on_termination = true
    }
  }

  dynamic "instance_market_options" {
    for_each = var.spot && each.value.role == "edge" ? ["spot"] : []

    content {
      market_type = "spot"
    }
  }

  monitoring {
    enabled = true
  }

  dynamic "tag_specifications" {
    for_each = ["instance", "volume", "network-interface"]

    content {
      resource_type = tag_specifications.value
      tags          = merge(local.tags, { Name = each.key, "nearfield:role" = each.value.role, "nearfield:node" = each.key })
    }
  }
}

resource "aws_autoscaling_group" "node" {
  for_each = local.nodes
  region   = var.aws_region

  name                      = "nearfield-${each.key}"
  min_size                  = 1
  max_size                  = 1
  desired_capacity          = 1
  vpc_zone_identifier       = [aws_subnet.public[each.value.zone].id]
  health_check_type         = "EC2"
  health_check_grace_period = 300
  wait_for_capacity_timeout = "0"
  enabled_metrics           = ["GroupInServiceInstances"]

  launch_template {
    id      = aws_launch_template.node[each.key].id
    version = aws_launch_template.node[each.key].latest_version
  }

  # Before the instance ends, whyever: it says itself when it has drained.
  initial_lifecycle_hook {
    name                 = "drain"
    lifecycle_transition = "autoscaling:EC2_INSTANCE_TERMINATING"
    heartbeat_timeout    = local.drain_seconds[each.value.role] + 60
    default_result       = "CONTINUE"
  }

  # No `instance_refresh`: each group would replace its node at once, so that a new image or package took the whole region down.

  dynamic "tag" {
    for_each = merge(local.tags, { Name = each.key, "nearfield:role" = each.value.role, "nearfield:node" = each.key })

    content {
      key                 = tag.key
      value               = tag.value
      propagate_at_launch = false
    }
  }
}

# A core's store. It outlives the instance, and leaves a snapshot when it is removed.
resource "aws_ebs_volume" "core" {
  for_each = local.cores
  region   = var.aws_region

  availability_zone = aws_subnet.public[each.value.zone].availability_zone
  size              = var.core_gigabytes
  type              = "gp3"
  encrypted         = true
  kms_key_id        = var.kms_key
  final_snapshot    = true
  tags              = merge(local.tags, { Name = each.key, "nearfield:node" = each.key })
}

# Where the parent zone says that the DNS node is.
resource "aws_eip" "dns" {
  #checkov:skip=CKV2_AWS_19:the instance takes it when it starts, as the scaling group makes a new one
  for_each = local.names
  region   = var.aws_region

  domain = "vpc"
  tags   = merge(local.tags, { Name = each.key, "nearfield:node" = each.key })
}
