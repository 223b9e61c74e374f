# What each node may do of itself: read its own secret, say that it has drained, and take what is its own.

locals {
  account = { for name, arn in var.certificates : name => split(":", arn)[4] }
  arn     = "arn:${split(":", values(var.certificates)[0])[1]}"
  # The policy of each node. A core reads the API's token too, and attaches its disk; a DNS node takes its address.
  # (Statements differ in shape, and a conditional wants one: so they go through JSON.)
  rights = {
    for name, node in local.nodes : name => concat(
      [
        {
          Sid      = "Secrets"
          Effect   = "Allow"
          Action   = ["secretsmanager:GetSecretValue"]
          Resource = concat([var.certificates[name]], node.role == "core" ? [var.api_token] : [])
        },
        {
          Sid      = "Drained"
          Effect   = "Allow"
          Action   = ["autoscaling:CompleteLifecycleAction"]
          Resource = ["${local.arn}:autoscaling:${var.aws_region}:${local.account[name]}:autoScalingGroup:*:autoScalingGroupName/nearfield-${name}"]
        },
      ],
      jsondecode(node.role == "core" ? jsonencode([
        {
          Sid      = "Disk"
          Effect   = "Allow"
          Action   = ["ec2:AttachVolume"]
          Resource = [aws_ebs_volume.core[name].arn]
        },
        {
          Sid       = "DiskTo"
          Effect    = "Allow"
          Action    = ["ec2:AttachVolume"]
          Resource  = ["${local.arn}:ec2:${var.aws_region}:${local.account[name]}:instance/*"]
          Condition = { StringEquals = { "aws:ResourceTag/nearfield:node" = name } }
        },
      ]) : "[]"),
      jsondecode(node.role == "dns" ? jsonencode([
        {
          Sid      = "Address"
          Effect   = "Allow"
          Action   = ["ec2:AssociateAddress"]
          Resource = [aws_eip.dns[name].arn]
        },
        {
          Sid       = "AddressTo"
          Effect    = "Allow"
          Action    = ["ec2:AssociateAddress"]
          Resource  = ["${local.arn}:ec2:${var.aws_region}:${local.account[name]}:instance/*", "${local.arn}:ec2:${var.aws_region}:${local.account[name]}:network-interface/*"]
          Condition = { StringEquals = { "aws:ResourceTag/nearfield:node" = name } }
        },
      ]) : "[]"),
    )
  }
}

resource "aws_iam_role" "node" {
  for_each    = local.nodes
  name_prefix = "nearfield-${each.value.role}-"
  description = "Nearfield node ${each.key}"
  tags        = merge(local.tags, { "nearfield:node" = each.key })

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = ["sts:AssumeRole"]
      Principal = { Service = ["ec2.amazonaws.com"] }
    }]
  })
}

resource "aws_iam_role_policy" "node" {
  for_each = local.nodes
  name     = "node"
  role     = aws_iam_role.node[each.key].id
  policy   = jsonencode({ Version = "2012-10-17", Statement = local.rights[each.key] })
}

resource "aws_iam_instance_profile" "node" {
  for_each    = local.nodes
  name_prefix = "nearfield-${each.value.role}-"
  role        = aws_iam_role.node[each.key].name
  tags        = merge(local.tags, { "nearfield:node" = each.key })
}
