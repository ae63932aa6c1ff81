class Index: pass
class Hit: pass
def search(): pass
