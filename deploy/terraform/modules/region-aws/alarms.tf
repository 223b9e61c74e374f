# A node without an instance, and an instance that does not answer Amazon. What the mesh itself knows, its metrics tell.

resource "aws_cloudwatch_metric_alarm" "gone" {
  for_each = local.nodes
  region   = var.aws_region

  alarm_name          = "nearfield-${each.key}-gone"
  alarm_description   = "${each.key} has had no instance in service for five minutes."
  namespace           = "AWS/AutoScaling"
  metric_name         = "GroupInServiceInstances"
  dimensions          = { AutoScalingGroupName = aws_autoscaling_group.node[each.key].name }
  statistic           = "Minimum"
  period              = 60
  evaluation_periods  = 5
  threshold           = 1
  comparison_operator = "LessThanThreshold"
  treat_missing_data  = "breaching"
  alarm_actions       = var.alarm_topic == null ? [] : [var.alarm_topic]
  ok_actions          = var.alarm_topic == null ? [] : [var.alarm_topic]
  tags                = local.tags
}

resource "aws_cloudwatch_metric_alarm" "busy" {
  for_each = local.nodes
  region   = var.aws_region

  alarm_name          = "nearfield-${each.key}-busy"
  alarm_description   = "${each.key} has used more than 85 % of its processors for ten minutes."
  namespace           = "AWS/EC2"
  metric_name         = "CPUUtilization"
  dimensions          = { AutoScalingGroupName = aws_autoscaling_group.node[each.key].name }
  statistic           = "Average"
  period              = 60
  evaluation_periods  = 10
  threshold           = 85
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_topic == null ? [] : [var.alarm_topic]
  tags                = local.tags
}
