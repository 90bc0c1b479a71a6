"""Classes of protobuf messages, made when they are needed: without generated code, any version of protobuf will do."""


def message_class(package, messages, name):
    """The class of a message.

    Args:
        package: of the messages.
        messages: {message: {field: (number, type, is repeated)}}; a type is a message or one of protobuf's, "string".
        name: the message whose class is wanted.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto2")
    kinds = descriptor_pb2.FieldDescriptorProto
    for message_name, members in messages.items():
        message = file.message_type.add(name=message_name)
        for member, (number, kind, repeated) in members.items():
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            field = message.field.add(name=member, number=number, label=label)
            field.type = kinds.TYPE_MESSAGE if kind in messages else getattr(kinds, f"TYPE_{kind.upper()}")
            if kind in messages:
                field.type_name = f".{package}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindMessageTypeByName(f"{package}.{name}")
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(found)
    return message_factory.MessageFactory(pool).GetPrototype(found)  # before protobuf 4.22
